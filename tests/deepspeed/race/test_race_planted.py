"""Ordering bugs planted in DeepSpeed itself are found, each with the lines that it leaves unordered."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from harness.device.torch_private import RELEASE
from harness.race.investigate import analysed
from harness.race.launch import Ranks
from harness.race.report import Race, Report
from harness.variants import Variant, overlay_path
from tests.deepspeed.race.race_help import job_of

STAGE3, COORDINATOR, PARTITION = "stage3.py", "partitioned_param_coordinator.py", "partition_parameters.py"
CURRENT = "get_accelerator().current_stream()"
GATHER = "(dist.allgather_fn)(output_tensor"
SECONDARY_COPY = "param.ds_secondary_tensor.narrow(0, 0, sec_numel).copy_("
TO_PINNED = {"device": "cpu", "pin_memory": True}
OFFLOAD = {
    "zero_optimization": {"offload_param": TO_PINNED, "offload_optimizer": TO_PINNED},
    "zero_force_ds_cpu_optimizer": False,
}


@dataclass(frozen=True)
class Bug:
    """An edit of one file, on top of a variant, and what it must lead to: a part of each of the two source lines."""

    file: str
    before: str
    after: str
    first: str
    second: str
    kind: str = "race"
    variant: str = "event+step"
    config: dict[str, Any] = field(default_factory=dict)  # laid over the script's


BUGS = {
    "the reduce stream does not wait for the gradient": Bug(
        STAGE3,
        f"self.reduce_and_partition_stream.wait_stream({CURRENT})",
        "pass",
        "grad_weight = grad_output.t().matmul(input)",
        "new_grad_tensor.copy_(param.grad, non_blocking=True)",
    ),
    "the wrong stream waits for fetched parameters": Bug(
        COORDINATOR,
        f"{CURRENT}.wait_stream(self.__allgather_stream)",
        f"self.__allgather_stream.wait_stream({CURRENT})",
        "(torch.cat)(partitions)",
        "torch.addmm(bias, input, weight.t())",
    ),
    "the step does not wait for the reduce stream": Bug(
        STAGE3,
        "self.reduce_and_partition_stream.synchronize()",
        "pass",
        "grad_buffer.copy_(grad_partition, non_blocking=True)",
        "self.flatten(self.averaged_gradients[sub_group_id])",
    ),
    "the step on the host does not wait for the gradients that are sent to it": Bug(
        STAGE3,
        "self.reduce_and_partition_stream.synchronize()",
        "pass",
        "fp32_grad_tensor.copy_(grad_buffer.to(dtype=self.master_weights_and_grads_dtype), non_blocking=True)",
        "optimizer.step()",
        config=OFFLOAD,
    ),
    "a coalesced all-gather is not waited for": Bug(
        PARTITION,
        "instrument_w_nvtx(self.allgather_handle.wait)()",
        "pass",
        GATHER,
        "(torch.cat)(partitions)",
    ),
    "gathered parameters are freed without record_stream": Bug(
        PARTITION,
        f"param.data.record_stream({CURRENT})",
        "pass",
        "torch.addmm(bias, input, weight.t())",
        "param.data = torch.empty(0",
        kind="freed-in-use",
    ),
    "gradients are freed without record_stream": Bug(
        STAGE3,
        f"param.grad.record_stream({CURRENT})",
        "pass",
        "new_grad_tensor.copy_(param.grad, non_blocking=True)",
        # Older releases of torch hold a gradient themselves until the backward pass ends.
        "loss.backward(" if RELEASE < (2, 8) else "param.grad.data = new_grad_tensor",
        kind="freed-in-use",
    ),
    "the event of the secondary copy is recorded too early": Bug(
        PARTITION,
        "            one_dim_param = param.contiguous().view(-1)\n",
        "            param.ds_secondary_ready_event = get_accelerator().Event()\n"
        "            param.ds_secondary_ready_event.record()\n"
        "            one_dim_param = param.contiguous().view(-1)\n",
        SECONDARY_COPY,
        "(torch.cat)([",
    ),
    "the default stream waits for the secondary copy": Bug(
        PARTITION,
        f"{CURRENT}.wait_event(param.ds_secondary_ready_event)",
        "get_accelerator().default_stream().wait_event(param.ds_secondary_ready_event)",
        SECONDARY_COPY,
        "(torch.cat)([",
    ),
    "nothing waits for the secondary copy": Bug(
        PARTITION, "", "", SECONDARY_COPY, "(torch.cat)([", variant="unordered"
    ),
    "nothing waits for the step's copy": Bug(
        PARTITION,
        "",
        "",
        "self.fp16_partitioned_groups_flat[sub_group_id].data.copy_(",
        GATHER,
        variant="event",
    ),
}
EARLY = "the event of the secondary copy is recorded too early"


def planted(bug: Bug, folder: Path, name: str) -> Path:
    """A copy of the variant's overlay (hard links) with the edit in it."""
    shutil.copytree(overlay_path(Variant.parse(bug.variant)), folder, copy_function=os.link)
    file = folder / "deepspeed" / "runtime" / "zero" / bug.file
    source = file.read_text()
    if bug.before:
        assert bug.before in source, f"{bug.file} has no {bug.before!r}"
        edited = source.replace(bug.before, bug.after)
        if name == EARLY:  # the right record, after the copy, goes
            head, _, tail = edited.rpartition("param.ds_secondary_ready_event = get_accelerator().Event()")
            edited = f"{head}pass{tail.replace('param.ds_secondary_ready_event.record()', 'pass', 1)}"
        file.unlink()
        file.write_text(edited)
    return folder


def report_of(overlay: Path, config: Path | None = None) -> Report:
    job = job_of("bare_loop", "--steps", "3", ranks=2)
    job = replace(job, program=replace(job.program, config=str(config) if config else None))
    with Ranks(overlay) as ranks:
        return analysed(job, ranks.run(job))


def points_at(race: Race, bug: Bug) -> bool:
    first, second = (access.site[0].code for access in (race.first, race.second))
    return race.kind == bug.kind and bug.first in first and bug.second in second


def written(config: dict[str, Any], folder: Path) -> Path:
    (folder / "ds_config.json").write_text(json.dumps(config))
    return folder / "ds_config.json"


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_a_bug_planted_in_deepspeed_is_found_where_it_is(tmp_path: Path, name: str) -> None:
    bug = BUGS[name]
    report = report_of(planted(bug, tmp_path / "overlay", name), written(bug.config, tmp_path))
    assert [race for race in report.races if points_at(race, bug)], [
        (race.kind, race.first.place, race.second.place) for race in report.races
    ]


@pytest.mark.slow
def test_the_race_of_the_step_is_found_when_batches_come_from_a_loader_that_pins(tmp_path: Path) -> None:
    job = job_of("loader_loop", ranks=2)
    with Ranks(overlay_path(Variant.parse("event"))) as ranks:
        report = analysed(job, ranks.run(job))
    assert report.labels == {"step-partition-copy"}
    assert all(race.label for race in report.races)


@pytest.mark.slow
def test_memory_without_content_that_is_moved_and_padded_is_nobodys_fault() -> None:
    job = job_of("zero_init", ranks=2)
    with Ranks(overlay_path(Variant.parse("event+step"))) as ranks:
        report = analysed(job, ranks.run(job))
    assert report.races == ()
    assert report.problems == ()


@pytest.mark.slow
def test_the_gradients_of_zero_2_are_freed_in_use_but_handed_out_only_later(tmp_path: Path) -> None:
    """They lie in a block of the reduction stream, which waits for the step that reads them before it allocates."""
    zero = {"stage": 2, "zero_hpz_partition_size": 1, "reduce_bucket_size": 1500}
    config = written({"zero_optimization": zero}, tmp_path)
    report = report_of(overlay_path(Variant.parse("event+step")), config)
    assert report.races == ()
    assert report.problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, OFFLOAD], ids=["on the device", "offloaded to pinned memory"])
def test_without_a_bug_nothing_is_found(tmp_path: Path, config: dict[str, Any]) -> None:
    report = report_of(overlay_path(Variant.parse("event+step")), written(config, tmp_path))
    assert report.races == ()
    assert report.problems == ()
