"""A budget refuses what would lead beyond it, in one sentence, and counts what was used."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.launch.slurm.budget import check_budget, hours_to_come
from harness.launch.slurm.profile import Profile, with_options
from harness.launch.slurm.submit import plan_submissions
from harness.record import RunDirectory
from harness.study import Study, load_study
from harness.system.errors import HarnessError
from tests.conftest import StudyFile
from tests.pretraining import sweep
from tests.unit.record.test_hours import at

PROFILE = Profile(name="x", time="01:30:00")


@pytest.fixture
def study(study_file: StudyFile) -> Study:
    return load_study(
        study_file(matrix={"model": "llama2-toy", "variant": "zero3", "shape": "2x2", "seed": [1, 2]})
    )


def refused(study: Study, results: Path, budget: float, queued: tuple[str, ...] = ()) -> str:
    """The sentence; empty where the submission is within the budget."""
    planned = plan_submissions(study, results, PROFILE, None)
    try:
        check_budget(study, results, PROFILE.model_copy(update={"budget": budget}), planned, queued)
    except HarnessError as error:
        return str(error)
    return ""


def test_without_a_card_the_time_limit_is_the_most_that_a_group_may_take(
    study: Study, tmp_path: Path
) -> None:
    assert refused(study, tmp_path, 12) == ""  # two groups of four ranks, an hour and a half each
    assert refused(study, tmp_path, 11) == (
        "budget: 11 rank-hours, of which 0 are used, and 2 pair groups to be sent take 12 at most, by their time limit "
        "of 01:30:00: 1 too many; raise --budget (or budget in the profile), or take runs out of the study"
    )


def test_what_was_used_counts(study: Study, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "runs" / study.runs[0].run_id)
    directory.create(study.runs[0])
    directory.update_status(state="failed", started_utc=at(0), heartbeat_utc=at(1800))
    assert "of which 2 are used" in refused(study, tmp_path, 13)
    assert refused(study, tmp_path, 14) == ""


def test_what_is_in_the_queue_counts(study: Study, tmp_path: Path) -> None:
    (first, second) = plan_submissions(study, tmp_path, PROFILE, None)[0].tasks
    planned = plan_submissions(study, tmp_path, PROFILE, None, runs=study.runs[1:])
    assert [task.group for array in planned for task in array.tasks] == [second.group]
    profile = PROFILE.model_copy(update={"budget": 11})
    check_budget(study, tmp_path, profile, planned, ())
    with pytest.raises(HarnessError, match="6 may go to what is in the queue"):
        check_budget(study, tmp_path, profile, planned, {first.group})


def test_with_a_card_hours_are_planned_and_steps_that_are_done_are_not_counted(tmp_path: Path) -> None:
    study = sweep(models=("llama2-7b",))
    tasks = [
        task for array in plan_submissions(study, tmp_path, Profile(name="x"), None) for task in array.tasks
    ]
    whole, how = hours_to_come(study, tmp_path, PROFILE, tasks)
    assert how == "as planned at an MFU of 35%" and whole > 0
    for run in study.runs:
        directory = RunDirectory(tmp_path / "runs" / run.run_id)
        directory.checkpoints.mkdir(parents=True)
        (directory.checkpoints / "latest").write_text(f"step{run.training.steps // 2}")
    assert hours_to_come(study, tmp_path, PROFILE, tasks)[0] == pytest.approx(whole / 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"budget": 0.0}, "--budget: .* greater than 0"), ({"after": ["soon"]}, "--after: 'soon' names no job")],
)
def test_options_are_checked_as_keys_are(given: dict[str, object], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        with_options(PROFILE, given)
    assert with_options(PROFILE, {"budget": None, "after": None}) == PROFILE
