"""Old checkpoints go, and a disk without room for the first is told before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.study import Run, load_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.workload.checkpoints import Checkpoints


def run_with(**training: Any) -> Run:
    run = load_study(REPOSITORY / "experiments" / "laptop.yaml").runs[0]
    return run.model_copy(update={"training": run.training.model_copy(update=training)})


@pytest.mark.parametrize(
    ("keep", "left"), [(1, ["step30"]), (2, ["step30", "step9"]), (9, ["step10", "step30", "step9"])]
)
def test_the_newest_checkpoints_are_kept_by_step_and_not_by_name(
    tmp_path: Path, keep: int, left: list[str]
) -> None:
    for step in (9, 10, 30):
        (tmp_path / f"step{step}").mkdir()
    if keep == 2:
        (tmp_path / "step10").rename(tmp_path / "step8")
    Checkpoints(tmp_path, run_with(keep_checkpoints=keep))._remove_old()
    assert sorted(one.name for one in tmp_path.iterdir()) == left


def test_a_disk_without_room_for_a_checkpoint_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    Checkpoints(tmp_path / "checkpoint", run_with(checkpoint_every=0)).check_room()
    with pytest.raises(
        HarnessError, match=r"training.checkpoint_every: a checkpoint takes .* GB and .* GB free; free"
    ):
        Checkpoints(tmp_path / "checkpoint", run_with(checkpoint_every=5)).check_room()


def test_a_run_with_a_checkpoint_goes_on_however_little_room_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latest").write_text("step3")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    Checkpoints(tmp_path, run_with(checkpoint_every=5)).check_room()


@pytest.mark.parametrize(("keep", "left"), [(0, False), (1, True)])
def test_a_run_that_is_done_keeps_its_last_checkpoint_only_where_it_is_asked_to(
    tmp_path: Path, keep: int, left: bool
) -> None:
    folder = tmp_path / "checkpoint"
    (folder / "step4").mkdir(parents=True)
    checkpoints = Checkpoints(folder, run_with(keep_checkpoints=keep))
    checkpoints._remove_old()
    assert (folder / "step4").exists()
    checkpoints.remove_unkept()
    assert folder.exists() == left
