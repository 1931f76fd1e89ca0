"""What a task does about a bad node, with made-up commands of SLURM's: n0 answers for itself, n1 says nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.launch.slurm.checks import Check, read_checks
from harness.launch.slurm.health import Health
from harness.launch.slurm.srun import Allocation
from harness.launch.slurm.task import Driver
from harness.record import RunDirectory
from harness.study import Study, load_study
from tests.conftest import StudyFile
from tests.submitted import PROFILE, command, submitted

SRUN = f"""case "$2" in
    *.node) SLURMD_NODENAME=n0 exec {sys.executable} "$@" ;;
    *.rank) exit 0 ;;
esac"""
SCONTROL = """case "$*" in
    "show hostnames"*) printf 'n0\\nn1\\n' ;;
    "show job"*) echo "JobId=7 ExcNodeList=(null) Other=1" ;;
    *) echo "$*" >> {said}; exit {code} ;;
esac"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr("harness.launch.slurm.task.REQUEUE_SECONDS", 0.0)
    command(folder, "scontrol", SCONTROL.format(said=folder / "said", code=0))
    command(folder, "sbatch", "exit 0")
    return folder


@pytest.fixture
def study(study_file: StudyFile) -> Study:
    return load_study(study_file(matrix={"model": "llama2-toy", "variant": "zero3", "shape": "2x2"}))


Task = Callable[[Health], tuple[list[dict[str, Any]], Check]]


@pytest.fixture
def task(study: Study, tmp_path: Path, commands: Path) -> Task:
    """Runs the task of the study's only group: the lines of allocations.jsonl, and the check."""

    def run(health: Health) -> tuple[list[dict[str, Any]], Check]:
        results = tmp_path / "results"
        profile = PROFILE.model_copy(update={"health": health})
        (sent,) = submitted(study, results, profile)
        allocation = Allocation("7_0", 0, "n[0-1]")
        Driver(sent.folder, sent.tasks[0], profile, ["sh", "-c", SRUN, "srun"], allocation).run()
        directory = RunDirectory(results / "runs" / study.runs[0].run_id)
        lines = (directory.path / "allocations.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines], read_checks(results / "slurm")[-1]

    return run


def said(commands: Path) -> list[str]:
    file = commands / "said"
    return file.read_text().splitlines() if file.exists() else []


def test_a_silent_node_is_named_and_kept_where_the_profile_leaves_out_none(
    task: Task, commands: Path
) -> None:
    (turn,), check = task(Health())
    assert turn["outcome"] == "failed" and turn["nodes_found"] == ["n1: did not answer"]
    assert check.excluded == () and check.why_not == "exclude_at_most is 0"
    assert said(commands) == []


def test_a_silent_node_is_left_out_and_the_task_sent_again(task: Task, commands: Path) -> None:
    (turn,), check = task(Health(exclude_at_most=1))
    assert (turn["outcome"], turn["reason"]) == ("left", "n1: did not answer")
    assert check.excluded == ("n1",) and check.why_not is None
    assert said(commands) == [
        "update jobid=7 excnodelist=n1",
        "requeue 7_0",
        "update jobid=7_0 excnodelist=n1",
    ]


def test_a_bad_node_stays_where_slurm_has_no_place_without_it(task: Task, commands: Path) -> None:
    command(
        commands, "sbatch", "echo 'allocation failure: Requested node configuration is not available'; exit 1"
    )
    (turn,), check = task(Health(exclude_at_most=1))
    assert turn["outcome"] == "failed" and turn["nodes_excluded"] == []
    assert check.why_not == (
        "without n1 SLURM has no place for the group: "
        "allocation failure: Requested node configuration is not available"
    )
    assert said(commands) == []


def test_where_slurm_does_not_requeue_the_nodes_are_taken_as_they_are(task: Task, commands: Path) -> None:
    command(commands, "scontrol", SCONTROL.format(said=commands / "said", code=1))
    (turn,), check = task(Health(exclude_at_most=1))
    assert turn["outcome"] == "failed" and check.excluded == ()
    assert check.why_not == "SLURM did not send the task again: scontrol ended with code 1"


def test_what_the_user_excludes_stays_excluded(task: Task, commands: Path) -> None:
    names = SCONTROL.replace("(null)", "m[3-4]").replace("printf 'n0\\nn1\\n'", "hosts $3")
    command(commands, "hosts", "case $1 in m*) echo m3; echo m4 ;; *) echo n0; echo n1 ;; esac")
    command(commands, "scontrol", names.format(said=commands / "said", code=0))
    task(Health(exclude_at_most=1))
    assert said(commands)[0] == "update jobid=7 excnodelist=m3,m4,n1"


def test_a_look_at_the_nodes_that_fails_ends_no_run(
    task: Task, commands: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("harness.launch.slurm.examine.Examiner.ask", full)
    with pytest.raises(IndexError):  # there is no check
        task(Health(exclude_at_most=1))
    assert "the nodes were not looked at: No space left on device" in capfd.readouterr().err
