"""What in the source of a DeepSpeed release shows each known fault: lines that are there, or that are missing.

The windows of `harness.diagnose.faults` rest on this: a test asks every release. Faults that are known by reports alone
(offload, hang) show nowhere. Each function takes the release's package folder.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

ZERO = "runtime/zero"
PARTITION, STAGE3, OFFLOAD, COORDINATOR = (
    f"{ZERO}/{name}.py"
    for name in ("partition_parameters", "stage3", "parameter_offload", "partitioned_param_coordinator")
)
ENGINE, TIMER, GROUPS = "runtime/engine.py", "utils/timer.py", "utils/groups.py"

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


EVIDENCE: dict[str, Callable[[Path], bool]] = {
    "race": race,
    "missing copy": missing_copy,
    "stale secondary": stale,
    "tiny parameters": tiny,
    "dirty after load": dirty_after_checkpoint,
    "groups across nodes": groups_of_contiguous_ranks,
    "optimizer step": unordered_gathers,
    "write between passes": unordered_gathers,
}
"""Fault → whether a release has it."""


def _copy(package: Path) -> str:
    return _function(package, PARTITION, "_partition_param_sec")


def _function(package: Path, file: str, name: str) -> str:
    """The statements of the functions of that name, without comments."""
    return "\n".join(ast.unparse(node) for node in _functions(_tree(package / file), name))


def _functions(tree: ast.Module, name: str) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)


@lru_cache(maxsize=16)
def _text(package: Path, file: str) -> str:
    return ast.unparse(_tree(package / file))


@lru_cache(maxsize=16)
def _tree(file: Path) -> ast.Module:
    """Parsing a file takes a tenth of a second."""
    return ast.parse(file.read_text())
