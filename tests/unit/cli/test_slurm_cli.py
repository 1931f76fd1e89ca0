"""`hpz submit`, `status`, `watch` and `cancel` as commands, with a made-up SLURM on PATH."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.record import RunDirectory
from harness.study import load_study
from tests.conftest import StudyFile
from tests.submitted import Slurm, command, line
from tests.unit.launch.test_slurm_scheduler import FINAL
from tests.unit.record.test_hours import at

Hpz = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hpz(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hpz:
    """The command, in this process."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["hpz", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    made_up = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{made_up.folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made_up


@pytest.fixture
def study(study_file: StudyFile) -> Path:
    return study_file(matrix={"model": "llama2-toy", "variant": "zero3", "shape": "2x2", "seed": [1, 2]})


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text("partition: main\nthrottle: 1\n")
    return file


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def submit(hpz: Hpz, study: Path, profile: Path, results: Path) -> Hpz:
    return lambda *words: hpz("submit", study, "--cluster", profile, "--results", results, *words)


def forget_answers(tmp_path: Path) -> None:
    """As if ten seconds had gone by since SLURM was asked."""
    for cached in tmp_path.glob("cache/hpz/*.json"):
        cached.unlink()


def end_runs(study: Path, results: Path, **status: Any) -> None:
    for run in load_study(study).runs:
        RunDirectory(results / "runs" / run.run_id).update_status(**status)


def test_a_dry_run_prints_the_scripts_and_touches_nothing(submit: Hpz, slurm: Slurm, results: Path) -> None:
    text = submit("--dry-run").stdout
    assert "#SBATCH --array=0-1%1" in text and "# 1: llama2-toy_2x2_s2" in text
    assert slurm.asked() == [] and not results.exists()


def test_submit_says_what_was_sent_and_sends_it_once(submit: Hpz, slurm: Slurm) -> None:
    (sent,) = json.loads(submit("--json").stdout)
    assert (sent["job_id"], sent["tasks"], len(sent["runs"])) == ("41", 2, 2)
    slurm.queue.write_text(line("41_0", "PENDING") + line("41_1", "PENDING"))
    assert submit().stdout == "Nothing to submit: all 2 pair groups are done or in the queue.\n"
    assert len(slurm.asked()) == 1


def test_several_arrays_wait_for_each_other_where_the_profile_has_a_throttle(
    submit: Hpz, slurm: Slurm, profile: Path
) -> None:
    profile.write_text("throttle: 1\nmax_array_size: 1\n")
    submit()
    first, second = slurm.asked()
    assert "--dependency" not in first and "--dependency=afterany:41" in second


def test_arrays_run_side_by_side_without_a_throttle(submit: Hpz, slurm: Slurm, profile: Path) -> None:
    profile.write_text("max_array_size: 1\n")
    submit()
    assert len(slurm.asked()) == 2 and "--dependency" not in slurm.said.read_text()


def test_a_refusal_leaves_nothing_behind_that_looks_sent(submit: Hpz, slurm: Slurm, results: Path) -> None:
    command(slurm.folder, "sbatch", "echo 'sbatch: error: invalid account' >&2; exit 1")
    done = submit()
    assert done.returncode == 2 and "error: invalid account" in done.stderr
    assert not list(results.glob("slurm/*/submission.json"))


def test_a_job_whose_acceptance_was_not_heard_is_found_again(
    submit: Hpz, slurm: Slurm, results: Path, tmp_path: Path
) -> None:
    timed_out = "echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1"
    command(slurm.folder, "sbatch", timed_out)
    done = submit()
    assert done.returncode == 2 and "looks first whether the job exists" in done.stderr
    slurm.queue.write_text("".join(line(f"77_{task}", "PENDING", mark(results)) for task in (0, 1)))
    forget_answers(tmp_path)
    assert "Nothing to submit" in submit().stdout
    (file,) = results.glob("slurm/*/submission.json")
    assert json.loads(file.read_text())["job_id"] == "77"


def mark(results: Path) -> str:
    (file,) = results.glob("slurm/*/submission.json")
    return str(json.loads(file.read_text())["mark"])


def test_a_budget_that_would_not_be_kept_sends_nothing(submit: Hpz, slurm: Slurm, results: Path) -> None:
    for words in (("--budget", "31"), ("--budget", "31", "--dry-run")):
        done = submit(*words)
        assert done.returncode == 2
        assert done.stderr.startswith("hpz: budget: 31 rank-hours, of which 0 are used, and 2 pair groups")
    assert slurm.asked() == [] and submit("--budget", "32").returncode == 0


def test_after_puts_other_jobs_first(submit: Hpz, slurm: Slurm, results: Path) -> None:
    submit("--after", "12", "--after", "afterany:13")
    (script,) = results.glob("slurm/*/submit.sbatch")
    assert "#SBATCH --dependency=afterok:12,afterany:13\n" in script.read_text()


def test_status_tells_hours_by_variant(hpz: Hpz, submit: Hpz, study: Path, results: Path) -> None:
    submit()
    end_runs(study, results, state="failed", started_utc=at(0), heartbeat_utc=at(900))
    (row, total) = json.loads(hpz("status", study, "--results", results, "--json").stdout)["hours"]
    assert (row["variant"], row["used"], row["failed"]) == ("zero3", 2.0, 2.0) and total["used"] == 2.0
    assert "lost to failed runs" in hpz("status", study, "--results", results).stdout


def test_status_shows_each_run_and_counts_them(
    hpz: Hpz, submit: Hpz, slurm: Slurm, study: Path, results: Path
) -> None:
    submit()
    slurm.queue.write_text(
        line("41_0", "PENDING", reason="Priority") + line("41_1", "RUNNING", nodes="n[0-1]")
    )
    seen = json.loads(hpz("status", study, "--results", results, "--json").stdout)
    assert seen["counts"] == {"queued": 1, "waiting": 1} and seen["problem"] is None
    first, second = seen["runs"]
    assert (first["job"], first["why"], second["nodes"]) == ("41_0", "Priority", "n[0-1]")
    assert "41_1" in hpz("status", study, "--results", results).stdout


def test_status_tells_when_slurm_expects_to_start_what_is_pending(
    hpz: Hpz, submit: Hpz, slurm: Slurm, study: Path, results: Path
) -> None:
    submit()
    expected = line("41_0", "PENDING", reason="Resources", start="2999-01-02T03:04:05")
    slurm.queue.write_text(expected + line("41_1", "PENDING", reason="JobArrayTaskLimit"))
    first, second = json.loads(hpz("status", study, "--results", results, "--json").stdout)["runs"]
    assert first["why"] == "Resources; expected to start 2999-01-02 03:04"
    assert first["starts_utc"].startswith("2999-01-0") and first["starts_utc"].endswith(":04:05.000Z")
    assert (second["why"], second["starts_utc"]) == ("JobArrayTaskLimit", None)


def test_watch_ends_well_when_every_run_is_done(
    hpz: Hpz, submit: Hpz, slurm: Slurm, study: Path, results: Path
) -> None:
    submit()
    end_runs(study, results, state="done", step=3, final=FINAL.model_dump())
    done = hpz("watch", study, "--results", results)
    assert done.returncode == 0 and done.stdout.count("done  4/4") == 2


def test_watch_ends_with_1_and_the_reason_when_a_run_failed(
    hpz: Hpz, submit: Hpz, slurm: Slurm, study: Path, results: Path
) -> None:
    submit()
    end_runs(study, results, state="failed", reason="rank 2 ended with code 1: the last words")
    done = hpz("watch", study, "--results", results)
    assert done.returncode == 1
    assert "2 of 2 runs did not finish" in done.stderr and "the last words" in done.stderr


def test_watch_sends_again_and_tells_a_command_of_it(
    hpz: Hpz, submit: Hpz, slurm: Slurm, study: Path, results: Path, tmp_path: Path
) -> None:
    submit()
    slurm.queue.write_text(line("41_0", "PREEMPTED", mark(results)) + line("41_1", "FAILED", mark(results)))
    forget_answers(tmp_path)
    done = hpz(
        "watch",
        study,
        "--results",
        results,
        "--resubmit",
        "--limit",
        0,
        "--notify",
        f"cat >> {tmp_path}/heard",
    )
    assert done.returncode == 1 and done.stdout.count("it was sent again 0 times (--limit)") == 2
    told = [json.loads(text) for text in (tmp_path / "heard").read_text().splitlines()]
    assert [event["event"] for event in told] == ["given-up", "given-up", "study-ended"]
    assert told[-1]["text"] == "tiny has ended: 1 interrupted, 1 failed" and told[-1]["results"] == str(
        results
    )


def test_cancel_ends_what_is_in_the_queue_and_what_was_sent_again_by_hand(
    hpz: Hpz, submit: Hpz, slurm: Slurm, study: Path, results: Path
) -> None:
    submit()
    slurm.queue.write_text(
        line("41_0", "RUNNING", mark(results))
        + line("41_1", "COMPLETED", mark(results))
        + line("43_0", "PENDING", mark(results))
        + line("44_0", "RUNNING", "hpz-other")
    )
    assert hpz("cancel", study, "--results", results).stdout == "cancelled: 41, 43\n"
    assert hpz("cancel", "43_0", "--results", results).stdout == "job 43_0 cancelled\n"
    assert slurm.asked()[1:] == ["scancel 41", "scancel 43", "scancel 43_0"]
    foreign = hpz("cancel", "44", "--results", results)
    assert foreign.returncode == 2 and "job 44 was not submitted from here" in foreign.stderr


def test_a_job_that_slurm_will_not_cancel_is_told_in_its_words(
    hpz: Hpz, submit: Hpz, slurm: Slurm, results: Path
) -> None:
    submit()
    command(slurm.folder, "scancel", "echo 'scancel: error: Access/permission denied' >&2; exit 1")
    done = hpz("cancel", "41", "--results", results)
    assert done.returncode == 2 and "SLURM refused to cancel 41: scancel: error: Access" in done.stderr
