"""A pair of runs that came to its end: what it shows, and that it is not done again."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.record import Status
from harness.study import Study
from tests.conftest import write_study
from tests.deepspeed.launch.test_local_launch import run, steps

Finished = tuple[Path, Path, Study, list[Status]]  # study file, results, and what came of it


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A pair of runs to their end: hpZ as fixed, and ZeRO-3."""
    root = tmp_path_factory.mktemp("finished")
    file = write_study(root)
    return file, root / "results", *run(file, root / "results")


def test_fixed_hpz_equals_zero3_to_the_bit_and_really_gathers(finished: Finished) -> None:
    _, results, study, statuses = finished
    assert [status.state for status in statuses] == ["done", "done"]
    ((fixed, baseline),) = study.pairs
    hpz, zero3 = steps(results, fixed.run_id), steps(results, baseline.run_id)
    assert [line["loss"] for line in hpz] == [line["loss"] for line in zero3]
    assert all(line["secondary_gathers"] > 0 for line in hpz)
    assert all(line["secondary_gathers"] == 0 for line in zero3)
    assert statuses[0].final is not None and statuses[1].final is not None
    assert statuses[0].final.shards_sha256 == statuses[1].final.shards_sha256


def test_finished_runs_are_not_done_again(finished: Finished) -> None:
    file, results, _, first = finished
    _, second = run(file, results)
    assert [status.started_utc for status in second] == [status.started_utc for status in first]
