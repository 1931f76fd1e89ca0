"""Ordering bugs planted in DeepSpeed itself are found, each with the lines that it leaves unordered."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.race.investigate import analysed
from harness.race.launch import Ranks
from harness.race.report import Race, Report
from harness.variants import Variant, overlay_path
from tests.deepspeed.race_help import job_of

STAGE3, COORDINATOR, PARTITION = "stage3.py", "partitioned_param_coordinator.py", "partition_parameters.py"
CURRENT = "get_accelerator().current_stream()"


@dataclass(frozen=True)
class Bug:
    """An edit of one file, on top of a variant, and what it must lead to: functions of the first and second side."""

    file: str
    before: str
    after: str
    first: str
    second: str
    kind: str = "race"
    variant: str = "event+step"


BUGS = {
    "the reduce stream does not wait for the gradient": Bug(
        STAGE3,
        f"self.reduce_and_partition_stream.wait_stream({CURRENT})",
        "pass",
        "<module>",
        "__add_grad_to_ipg_bucket",
    ),
    "the wrong stream waits for fetched parameters": Bug(
        COORDINATOR,
        f"{CURRENT}.wait_stream(self.__allgather_stream)",
        f"self.__allgather_stream.wait_stream({CURRENT})",
        "wait",
        "<module>",
    ),
    "the step does not wait for the reduce stream": Bug(
        STAGE3, "self.reduce_and_partition_stream.synchronize()", "pass", "partition_grads", "step"
    ),
    "a coalesced all-gather is not waited for": Bug(
        PARTITION, "instrument_w_nvtx(self.allgather_handle.wait)()", "pass", "_all_gather_dtype", "wait"
    ),
    "gathered parameters are freed without record_stream": Bug(
        PARTITION,
        f"param.data.record_stream({CURRENT})",
        "pass",
        "<module>",
        "free_param",
        kind="freed-in-use",
    ),
    "gradients are freed without record_stream": Bug(
        STAGE3,
        f"param.grad.record_stream({CURRENT})",
        "pass",
        "__add_grad_to_ipg_bucket",
        "__add_grad_to_ipg_bucket",
        kind="freed-in-use",
    ),
    "the event of the secondary copy is recorded too early": Bug(
        PARTITION,
        "            one_dim_param = param.contiguous().view(-1)\n",
        "            param.ds_secondary_ready_event = get_accelerator().Event()\n"
        "            param.ds_secondary_ready_event.record()\n"
        "            one_dim_param = param.contiguous().view(-1)\n",
        "_partition_param_sec",
        "_all_gather_dtype",
    ),
    "the default stream waits for the secondary copy": Bug(
        PARTITION,
        f"{CURRENT}.wait_event(param.ds_secondary_ready_event)",
        "get_accelerator().default_stream().wait_event(param.ds_secondary_ready_event)",
        "_partition_param_sec",
        "_all_gather_dtype",
    ),
    "nothing waits for the secondary copy": Bug(
        PARTITION, "", "", "_partition_param_sec", "_all_gather_dtype", variant="unordered"
    ),
    "nothing waits for the step's copy": Bug(
        PARTITION,
        "",
        "",
        "_reassign_or_swap_out_partitioned_parameters",
        "_dist_allgather_fn",
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


def report_of(overlay: Path) -> Report:
    job = job_of("bare_loop", "--steps", "3", ranks=2)
    with Ranks(overlay) as ranks:
        return analysed(job, ranks.run(job))


def points_at(race: Race, bug: Bug) -> bool:
    first, second = ({place.function for place in access.site} for access in (race.first, race.second))
    return race.kind == bug.kind and bug.first in first and (not bug.second or bug.second in second)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_a_bug_planted_in_deepspeed_is_found_where_it_is(tmp_path: Path, name: str) -> None:
    bug = BUGS[name]
    report = report_of(planted(bug, tmp_path / "overlay", name))
    assert [race for race in report.races if points_at(race, bug)], [
        (race.kind, race.first.place, race.second.place) for race in report.races
    ]


@pytest.mark.slow
def test_without_a_bug_nothing_is_found(tmp_path: Path) -> None:
    report = report_of(overlay_path(Variant.parse("event+step")))
    assert report.races == ()
    assert report.problems == ()
