"""What in the source of a DeepSpeed release shows each known fault: lines that are there, or that are missing.

The windows of `harness.diagnose.faults` rest on this: a test asks every release. Faults that are known by reports alone
(offload, hang) show nowhere. Each function takes the release's package folder.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

ZERO = "runtime/zero"
PARTITION, STAGE3, OFFLOAD, COORDINATOR = (
    f"{ZERO}/{name}.py"
    for name in ("partition_parameters", "stage3", "parameter_offload", "partitioned_param_coordinator")
)
ENGINE, TIMER, GROUPS = "runtime/engine.py", "utils/timer.py", "utils/groups.py"
STAGE12, CONFIG, LEAVES = f"{ZERO}/stage_1_and_2.py", f"{ZERO}/config.py", "utils/z3_leaf_module.py"

INVALIDATE = "self.invalidate_secondary_tensor()"


def race(package: Path) -> bool:
    """Nothing orders the copy before the gather, it is made in every step, and no host wait happens to lie between."""
    waits = "synchronize()" in _copy(package)
    between = reads_in_backward_alone(package) and waits_for_the_loss(package)
    return not waits and not stale(package) and not between


def reads_in_backward_alone(package: Path) -> bool:
    """The gather turns to the secondary partitions in the backward pass only."""
    return "self.zero_param_process_group and (not forward)" in _text(package, PARTITION)


def waits_for_the_loss(package: Path) -> bool:
    """`engine.backward` starts with a read of the loss by the host, whatever the settings."""
    return "self.losses += loss.mean().item()" in _function(package, ENGINE, "backward")


def missing_copy(package: Path) -> bool:
    """What is copied is derived from the primary partition's end, and so falls short."""
    return "elements_to_copy_sec" in _copy(package)


def stale(package: Path) -> bool:
    """The optimizer step leaves the secondary partitions valid. (The call may be there as a comment.)"""
    return INVALIDATE not in _function(package, STAGE3, "_post_step")


def tiny(package: Path) -> bool:
    """The parameter is narrowed even where a rank has nothing to copy, and its slice begins beyond the end."""
    return "if sec_numel > 0:" not in _copy(package)


def dirty_after_checkpoint(package: Path) -> bool:
    """`load_checkpoint` leaves secondary partitions valid that were made before it."""
    return INVALIDATE not in _function(package, STAGE3, "checkpoint_event_epilogue")


def dirty_after_gathered(package: Path) -> bool:
    """What was written under GatheredParameters does not reach a secondary partition that is there already.

    The copy is left out where there is one, unless it is told that the parameter was updated, which it is not.
    """
    kept = "if param.ds_secondary_tensor is not None and (not has_been_updated)" in _copy(package)
    told = "_partition_param_sec(param, has_been_updated=" in _function(package, PARTITION, "_partition")
    return kept and not told


def unordered_gathers(package: Path) -> bool:
    """With overlap_comm the all-gathers have a stream of their own, which waits for no other."""
    texts = [_text(package, file) for file in (OFFLOAD, COORDINATOR, STAGE3)]
    return "if overlap_comm else" in texts[0] and not any("allgather_stream.wait_" in text for text in texts)


def step(package: Path) -> bool:
    """The all-gathers are unordered, and the host's check of the recorded trace comes before the step, not after.

    That check waits for the device. At the start of a forward pass it covers the steps in which the throughput timer
    does not wait yet; at the end of a backward pass it covers none.
    """
    return unordered_gathers(package) and "reset_step()" in _function(package, STAGE3, "backward")


def timer_has_switches(package: Path) -> bool:
    """The throughput timer can be switched off, or be told not to synchronise."""
    return "self.config.synchronized" in _text(package, TIMER)


def groups_of_contiguous_ranks(package: Path) -> bool:
    """An hpZ group is a range of ranks, wherever these are."""
    size = "zero_param_parallel_size_"
    return f"range(i * {size}, (i + 1) * {size})" in _text(package, GROUPS)


def bucket_reused(package: Path) -> bool:
    """The backward pass does not wait for the reduction of the bucket before."""
    return "current_stream().wait_stream(stream)" not in _raw(package, STAGE12)


def bucket_freed(package: Path) -> bool:
    """What was reduced for several ranks is not kept for the reduction stream."""
    text = _raw(package, STAGE12)
    return "def allreduce_and_copy_with_multiple_ranks" in text and "record_stream" not in text


def bucket_index(package: Path) -> bool:
    """Clearing a bucket sets its index back, and nothing waits instead."""
    text = _raw(package, STAGE12)
    cleared = re.search(r"self\.elements = 0\n\s*self\.index = 0\n", text)
    return cleared is not None and "self.reduction_stream.wait_stream" not in text


def several_producers(package: Path) -> bool:
    """The streams that fill a bucket are not remembered."""
    return "copy_streams" not in _raw(package, STAGE12)


def default_stream(package: Path) -> bool:
    """ZeRO-3's reduction waits for the default stream, wherever gradients are written."""
    return "stream.wait_stream(get_accelerator().default_stream())" in _raw(package, STAGE3)


def all_reduce_fetch(package: Path) -> bool:
    """A parameter's place in the fetched buffer is counted without padding."""
    return "start_param += param.ds_numel\n" in _raw(package, PARTITION)


def gradients_not_reduced(package: Path) -> bool:
    """A gradient of exactly the bucket's size goes into no bucket."""
    return "param.grad.numel() < self.reduce_bucket_size" in _raw(package, STAGE3)


def one_gradient_at_a_time(package: Path) -> bool:
    """The elements of a bucket are counted, and never set back."""
    text = _raw(package, STAGE3)
    return "bucket.elements" in text and "bucket.elements = 0" not in text


def leaf_module_threads(package: Path) -> bool:
    return (package / LEAVES).exists() and "leaf_module_lock" not in _raw(package, COORDINATOR)


def accumulation_with_offload(package: Path) -> bool:
    """Gradients of a micro-batch are kept on the CPU only under some steps of the accumulation."""
    return "self.micro_step_id > 0 or not self.is_gradient_accumulation_boundary" not in _raw(
        package, STAGE12
    )


def muon(package: Path) -> bool:
    text = _raw(package, STAGE12)
    return "muon_update" in text and "muon_copy_ranks" not in text


def bf16_without_zero(package: Path) -> bool:
    return "LossScaleProfile" not in _raw(package, ENGINE)


def one_group_a_process(package: Path) -> bool:
    return "intra parallel group is already initialized" in _raw(package, GROUPS)


def multiple_of_8(package: Path) -> bool:
    return "requires the number of weights be a multiple of 8" in _raw(package, PARTITION)


def quantises_bf16(package: Path) -> bool:
    """The quantiser is given parameters as they are, though its kernel takes fp16 alone."""
    return "def dequantize(self, quantized_param, scale):" in _raw(package, PARTITION)


def has_mics(package: Path) -> bool:
    return "mics_shard_size" in _raw(package, CONFIG)


def has_no_mics(package: Path) -> bool:
    return not has_mics(package)


EVIDENCE: dict[str, Callable[[Path], bool]] = {
    "race": race,
    "missing copy": missing_copy,
    "stale secondary": stale,
    "tiny parameters": tiny,
    "dirty after load": dirty_after_checkpoint,
    "groups across nodes": groups_of_contiguous_ranks,
    "optimizer step": unordered_gathers,
    "write between passes": unordered_gathers,
    "second model": one_group_a_process,
    "quantised weights: size": multiple_of_8,
    "quantised weights: bf16": quantises_bf16,
    "MiCS": has_mics,
    "MiCS: gone": has_no_mics,
    "zero-3 default stream": default_stream,
    "all-reduce fetch": all_reduce_fetch,
    "gradients not reduced": gradients_not_reduced,
    "one gradient at a time": one_gradient_at_a_time,
    "leaf module threads": leaf_module_threads,
    "bucket reused": bucket_reused,
    "bucket freed": bucket_freed,
    "bucket index": bucket_index,
    "several producers": several_producers,
    "accumulation with offload": accumulation_with_offload,
    "bf16 without ZeRO": bf16_without_zero,
    "Muon with reduce-scatter": muon,
}
"""Fault → whether a release has it."""


def _copy(package: Path) -> str:
    return _function(package, PARTITION, "_partition_param_sec")


def _function(package: Path, file: str, name: str) -> str:
    """The statements of the functions of that name, without comments."""
    return "\n".join(ast.unparse(node) for node in _functions(_tree(package / file), name))


def _functions(tree: ast.Module, name: str) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)


def _raw(package: Path, file: str) -> str:
    """The file as it is, comments and all: a tenth of the time of `_text`."""
    return (package / file).read_text(encoding="utf-8")


@lru_cache(maxsize=16)
def _text(package: Path, file: str) -> str:
    return ast.unparse(_tree(package / file))


@lru_cache(maxsize=16)
def _tree(file: Path) -> ast.Module:
    """Parsing a file takes a tenth of a second."""
    return ast.parse(file.read_text())
