"""What chaos calls lost, double or false is what is lost, double or false."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.cluster import Cluster, Spec
from harness.launch.slurm.profile import Profile
from harness.record import RunDirectory
from harness.study import Run, load_study
from tests.chaos import STEPS, Site, report, watch_water
from tests.conftest import StudyFile
from tests.unit.record.test_mirror import write_steps
from tests.wandb_store import stored


@pytest.fixture
def site(study_file: StudyFile, tmp_path: Path) -> Site:
    """A study of one run that is done."""
    matrix = {"model": "llama2-toy", "variant": "zero3", "shape": "2x2"}
    study = load_study(study_file(matrix=matrix, training={"steps": STEPS}))
    nobody = cast(Cluster, SimpleNamespace(spec=Spec(nodes=2)))
    made = Site(nobody, tmp_path, study, Profile(name="test"), False, random.Random(1))
    (run,) = study.runs
    directory = directory_of(made)
    directory.create(run)
    write_steps(directory, 0, STEPS)
    return made


def directory_of(site: Site) -> RunDirectory:
    return RunDirectory(site.results / "runs" / site.study.runs[0].run_id)


def said(site: Site, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = report([site], real=False)
    lines = capsys.readouterr().out.splitlines()
    return code, {
        name: int(rest.split(":")[0]) for name, _, rest in (line.partition(": ") for line in lines[1:])
    }


def test_a_study_that_is_whole_has_lost_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(site, capsys) == (
        0,
        {"lost steps": 0, "false done": 0, "runs with missing or double steps in wandb": 0},
    )


def test_a_step_that_is_missing_is_lost(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    file = directory_of(site).steps_file
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:7] + lines[8:]))
    code, counts = said(site, capsys)
    assert code == 1 and counts["lost steps"] == 1


def test_a_checkpoint_that_goes_back_has_lost_its_steps(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    latest = directory_of(site).checkpoints / "latest"
    latest.parent.mkdir()
    for step in (8, 5):
        latest.write_text(f"step{step}")
        watch_water(site)
    code, counts = said(site, capsys)
    assert code == 1 and counts["lost steps"] == 1


def test_a_step_that_wandb_has_twice_is_double(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.record.mirror import mirror_run

    directory = directory_of(site)
    mirror_run(directory.path, "offline")
    stored(directory.path)  # waits until the store is whole
    (store,) = directory.path.glob("wandb/offline-run-*")
    shutil.copytree(store, store.with_name("offline-run-of-a-second-writer"))
    code, counts = said(site, capsys)
    assert code == 1 and counts["runs with missing or double steps in wandb"] == 1


def test_another_loss_than_the_baselines_is_a_difference(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = directory_of(site)
    lines = [json.loads(line) for line in directory.steps_file.read_text().splitlines()]
    assert report([site], real=True) == 0
    other = Run.model_validate(site.study.runs[0].model_dump() | {"variant": "fixed"})
    twin = RunDirectory(site.results / "runs" / other.run_id)
    twin.create(other)
    lines[-1]["loss"] += 1e-7
    twin.steps_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    site.study = cast(Any, SimpleNamespace(runs=[*site.study.runs, other]))
    assert report([site], real=True) == 1
    assert f"baseline: 1: {other.run_id}" in capsys.readouterr().out
