"""What is sent again and what is not, without a SLURM: tests/slurm/test_again.py has the real endings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.launch.slurm import scheduler
from harness.launch.slurm import submit as submitting
from harness.launch.slurm.again import Again, read_again
from harness.launch.slurm.arrays import submissions
from harness.launch.slurm.cancel import cancel_job
from harness.launch.slurm.clients import HELD
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.status import study_rows
from harness.launch.slurm.submit import submit
from harness.record import RunDirectory
from harness.study import Study, load_study
from harness.system.places import REPOSITORY
from tests.conftest import StudyFile
from tests.submitted import Slurm, command, line


class Sent:
    """A study of ZeRO-3 and `fixed` that was sent as job 41."""

    def __init__(self, study: Study, results: Path, slurm: Slurm, **profile: Any) -> None:
        self.study, self.results, self.slurm = study, results, slurm
        self.said: list[str] = []
        (self.first,) = submit(study, results, Profile(name="x", after=["7"], **profile), code=REPOSITORY)

    def ended(self, state: str = "PREEMPTED", job: str = "41_0") -> None:
        """The job has ended, as squeue tells it."""
        self.slurm.queue.write_text(line(job, state, self.first.mark))

    def run_ended(self, index: int, **status: Any) -> None:
        RunDirectory(self.results / "runs" / self.study.runs[index].run_id).update_status(**status)

    def look(self, limit: int = 10) -> bool:
        """Whether anything is to come, of a watch that begins now."""
        study_rows(
            self.study, self.results
        )  # a job that squeue has not told of yet is asked of the accounting first
        rows, _ = study_rows(self.study, self.results)
        return Again(self.study, self.results, limit, lambda _, sentence: self.said.append(sentence)).look(
            rows
        )

    def sent_again(self) -> list[str | None]:
        return [one.job_id for one in submissions(self.results / "slurm")[1:]]


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study_file: StudyFile) -> Sent:
    slurm = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{slurm.folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(scheduler, "QUERY_SECONDS", 0.0)
    return Sent(load_study(study_file()), tmp_path / "results", slurm)


def test_a_group_is_sent_with_the_code_it_had_and_waits_for_no_job_of_then(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(results: Path) -> None:
        raise AssertionError("the code of now was asked for")

    monkeypatch.setattr(submitting, "take_snapshot", refuse)
    sent.ended()
    assert sent.look() and sent.sent_again() == ["42"]
    assert sent.said == [
        f"sent again (1 of 10): {sent.first.tasks[0].group} as job 42_0, at 0 of 8 steps: the job was preempted, and "
        "is not requeued here (SLURM: PREEMPTED)"
    ]
    again = submissions(sent.results / "slurm")[1]
    assert again.code == sent.first.code and again.profile.after == ()


@pytest.mark.parametrize("state", ["PREEMPTED", "FAILED", "TIMEOUT", "NODE_FAIL"])
def test_what_slurm_ended_goes_on(sent: Sent, state: str) -> None:
    sent.ended(state)
    assert sent.look() and sent.sent_again() == ["42"]


@pytest.mark.parametrize("state", ["CANCELLED", "OUT_OF_MEMORY", "DEADLINE"])
def test_what_would_end_so_again_or_was_meant_does_not(sent: Sent, state: str) -> None:
    sent.ended(state)
    assert not sent.look() and sent.sent_again() == []


def hold(sent: Sent) -> None:
    """The node could not launch the task, and SLURM keeps it until somebody has looked."""
    sent.slurm.queue.write_text(line("41_0", "PENDING", sent.first.mark, reason=HELD))


def test_a_task_that_slurm_holds_is_named_and_released_by_a_watch(sent: Sent) -> None:
    hold(sent)
    assert sent.look() and sent.sent_again() == []
    assert "scontrol release 41_0" in sent.slurm.asked()
    rows, _ = study_rows(sent.study, sent.results)
    assert {(row.state, row.may_go_on) for row in rows} == {("held", False)}


def test_a_task_that_is_held_again_and_again_is_given_up(sent: Sent) -> None:
    hold(sent)
    again = Again(sent.study, sent.results, 10, lambda _, sentence: sent.said.append(sentence))
    rows, _ = study_rows(sent.study, sent.results)
    assert [again.look(rows) for _ in range(3)] == [True, True, False]
    assert sent.said[-1].startswith("not sent again: 41_0, held: its launch failed 3 times")


def test_submit_releases_what_slurm_holds_and_sends_nothing_twice(sent: Sent) -> None:
    hold(sent)
    said: list[str] = []
    profile = Profile(name="x")
    assert submit(sent.study, sent.results, profile, said.append, code=REPOSITORY) == []
    assert "scontrol release 41_0" in sent.slurm.asked() and "it is released" in said[0]


def test_nothing_is_sent_while_slurm_has_the_job(sent: Sent) -> None:
    sent.ended("PENDING")
    assert not sent.look() and sent.sent_again() == []


def test_a_run_that_failed_by_itself_is_left_out_and_one_that_is_done_is_not(sent: Sent) -> None:
    sent.ended()
    sent.run_ended(0, state="failed", reason="rank 2 ended with code 1: the last words")
    assert sent.look()
    assert submissions(sent.results / "slurm")[1].tasks[0].runs == (sent.study.runs[1].run_id,)
    sent.run_ended(0, state="done")
    sent.slurm.queue.write_text(line("42_0", "PREEMPTED"))
    assert sent.look()
    assert len(submissions(sent.results / "slurm")[2].tasks[0].runs) == 2


def test_a_job_that_was_cancelled_here_is_left_alone_even_once_slurm_has_forgotten_it(sent: Sent) -> None:
    cancel_job("41_0", [sent.results])
    sent.slurm.queue.write_text("")
    assert not sent.look() and sent.sent_again() == []


def test_the_limit_holds_over_several_watches(sent: Sent) -> None:
    sent.ended()
    assert sent.look(limit=1)
    sent.slurm.queue.write_text(line("42_0", "PREEMPTED"))
    assert not sent.look(limit=1)
    assert sent.said[-1].endswith("(SLURM: PREEMPTED); it was sent again 1 times (--limit)")
    assert len(read_again(sent.results)) == 1


def test_a_throttle_holds_over_what_is_sent_again(sent: Sent, study_file: StudyFile, tmp_path: Path) -> None:
    study = load_study(
        study_file(matrix={"model": "llama2-toy", "variant": "zero3", "shape": "2x2", "seed": [1, 2]})
    )
    two = Sent(study, tmp_path / "two", sent.slurm, throttle=1)
    (first,) = submissions(two.results / "slurm")
    two.slurm.queue.write_text(line("42_0", "PREEMPTED", first.mark) + line("42_1", "RUNNING", first.mark))
    assert two.look() and two.sent_again() == ["43"]
    assert "--dependency=afterany:42 " in two.slurm.asked()[-1]


def test_a_refusal_of_slurms_is_told_once_and_not_tried_again(sent: Sent) -> None:
    sent.ended()
    command(
        sent.slurm.folder,
        "sbatch",
        f"echo x >> {sent.slurm.folder}/tried; echo 'invalid account' >&2; exit 1",
    )
    again = Again(sent.study, sent.results, 10, lambda _, sentence: sent.said.append(sentence))
    rows, _ = study_rows(sent.study, sent.results)
    assert [again.look(rows) for _ in range(3)] == [False] * 3
    assert len(sent.said) == 1 and "invalid account" in sent.said[0]
    assert (sent.slurm.folder / "tried").read_text() == "x\n"
