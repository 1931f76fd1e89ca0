"""The local launcher over real DeepSpeed ranks: it finishes, resumes, and takes a broken run down with its reasons."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.launch import launcher
from harness.launch.forkserver import wake_at_end_of_child
from harness.launch.launcher import SERVER, Progress
from harness.launch.local import fail_on_overfull_disk, run_study, settled, sole_launcher
from harness.record import RunDirectory, Status
from harness.record.environment import environments
from harness.study import Study, load_study, save_study
from harness.system.errors import HarnessError, RunFailed
from harness.system.places import REPOSITORY
from tests.conftest import StudyFile
from tests.deepspeed.old_deepspeed import TOO_OLD, old_deepspeed
from tests.planted import PLANTED, leaks


def run(file: Path, results: Path) -> tuple[Study, list[Status]]:
    study = load_study(file)
    save_study(study, results)
    return study, run_study(study, results)


def steps(results: Path, run_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / "runs" / run_id / "steps.jsonl").read_text().splitlines()]


def test_a_failed_rank_takes_its_run_down_with_every_ranks_last_lines(
    study_file: StudyFile, tmp_path: Path
) -> None:
    file = study_file(training={"steps": 100000}, matrix=ZERO3)
    process, directory = start(file, tmp_path / "results")
    ranks = ranks_of(directory)
    waiting = [rank for rank in ranks if rank != 2]
    for rank in waiting:
        os.kill(ranks[rank], signal.SIGSTOP)  # as in a collective that never ends
    os.kill(ranks[2], signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "1 of 1 runs did not finish: rank 2 ended with SIGTERM" in said
    status = directory.status()
    assert status.state == "failed" and not any(alive(pid) for pid in ranks.values())
    assert {rank: end.signal for rank, end in status.exit.items()} == {
        **dict.fromkeys(waiting, "SIGKILL"),
        2: "SIGTERM",
    }
    for rank in waiting:
        assert status.exit[rank].reason.splitlines() == [
            "taken down with the run",
            *(directory.last_lines(rank) or ["no output"]),
        ]


def test_a_rank_that_fails_by_itself_leaves_its_words_and_surroundings_and_no_secret(
    study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    file = study_file(training={"steps": 2, "task": "finetune", "checkpoint": "/nowhere"}, matrix=ZERO3)
    study, (status,) = run(file, tmp_path / "results")
    assert status.state == "failed" and "'/nowhere' is no folder" in (status.reason or "")
    (found,) = environments(RunDirectory(tmp_path / "results" / "runs" / study.runs[0].run_id))
    assert found["torch"]["torch"].startswith(found["packages"]["torch"].split("+")[0])
    assert leaks(tmp_path / "results") == []


def test_the_end_of_a_child_is_heard_at_once() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    ended = wake_at_end_of_child()
    try:
        assert select.select([ended], [], [], 0)[0] == []
        subprocess.run(["true"], check=True)
        assert select.select([ended], [], [], 0)[0] == [ended]
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, before)


def kill_the_warm_process(_: Progress) -> None:
    """What no watcher should do."""
    for child in psutil.Process().children():
        with suppress(psutil.ZombieProcess):  # of another test
            while not (words := child.cmdline()):
                time.sleep(0.001)  # between its exec and its first instruction a process has no words yet
            if SERVER in words:
                child.kill()


def test_a_lost_warm_process_fails_its_runs(study_file: StudyFile, tmp_path: Path) -> None:
    study = load_study(study_file(matrix=ZERO3))
    with pytest.raises(RunFailed, match="the process that starts ranks ended with code -9"):
        run_study(study, tmp_path, kill_the_warm_process)
    status = RunDirectory(tmp_path / "runs" / study.runs[0].run_id).status()
    assert status.state == "failed" and "the process that starts ranks" in (status.reason or "")


def test_a_deepspeed_that_this_torch_cannot_import_fails_its_runs_with_one_sentence(
    study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = old_deepspeed(tmp_path)
    monkeypatch.setattr(launcher, "_overlay", lambda *_: old)
    study = load_study(study_file(matrix=ZERO3))
    with pytest.raises(RunFailed) as caught:
        run_study(study, tmp_path)
    assert str(caught.value) == f"the process that starts ranks ended with code 1: {TOO_OLD}"
    status = RunDirectory(tmp_path / "runs" / study.runs[0].run_id).status()
    assert (status.state, status.reason) == ("failed", str(caught.value))


def test_a_warm_process_that_never_gets_ready_fails_its_runs(
    study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "SERVER", "tests.deepspeed.launch.silent_server")
    monkeypatch.setattr(launcher, "START_SECONDS", 1)
    with pytest.raises(
        RunFailed, match="the process that starts ranks has not imported everything after 1 s"
    ):
        run_study(load_study(study_file(matrix=ZERO3)), tmp_path)


def test_ranks_that_leave_no_final_record_fail_their_run(
    study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "SERVER", "tests.deepspeed.launch.silent_ranks")
    (status,) = run_study(load_study(study_file(matrix=ZERO3)), tmp_path)
    assert (status.state, status.reason) == (
        "failed",
        "every rank ended with code 0 but none wrote the final record",
    )


def test_a_results_folder_has_one_launcher_at_a_time(study_file: StudyFile, tmp_path: Path) -> None:
    with sole_launcher(tmp_path / "results"):
        second, _ = start_only(study_file(matrix=ZERO3), tmp_path / "results")
        _, said = second.communicate(timeout=120)
    assert second.returncode == 2
    assert said == (
        f"hpz: {tmp_path}/results: another hpz run is at work there; "
        "wait for it, or give another folder with --results\n"
    )


def test_a_run_whose_launcher_was_killed_after_the_final_record_is_done(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    final = {"steps": 4, "skipped_steps": 0, "shards_sha256": "0" * 64}
    for state, settles_as in (("running", "done"), ("interrupted", "done"), ("failed", "failed")):
        directory.update_status(state=state, final=final)
        assert settled(directory).state == settles_as
    directory.update_status(state="running", final=None)
    assert settled(directory).state == "running"


def test_a_full_disk_ends_a_study_in_one_sentence(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(HarnessError, match="free space and run again, finished runs are kept"):  # noqa: SIM117
            with fail_on_overfull_disk(tmp_path):
                raise OSError(number, os.strerror(number))
    with pytest.raises(ConnectionError), fail_on_overfull_disk(tmp_path):
        raise ConnectionError


def test_memory_that_cannot_be_had_is_a_result_of_its_own(study_file: StudyFile, tmp_path: Path) -> None:
    width = 64 * 10**9
    toy = (REPOSITORY / "experiments" / "models" / "llama2-toy.yaml").read_text()
    size = 2 * (4 * width**2 + 3 * width * 176 + 2 * width) + 2 * 512 * width + width
    huge = toy.replace("hidden_size: 64", f"hidden_size: {width}").replace("166208", str(size))
    file = study_file(matrix={**ZERO3, "model": "huge"})
    (file.parent / "models" / "huge.yaml").write_text(huge)
    _, statuses = run(file, tmp_path / "results")
    assert statuses[0].state == "out-of-memory", statuses[0].reason


def test_a_run_over_its_time_is_ended(study_file: StudyFile, tmp_path: Path) -> None:
    file = study_file(training={"steps": 100000}, launch={"timeout_seconds": 12}, matrix=ZERO3)
    _, statuses = run(file, tmp_path / "results")
    assert statuses[0].state == "timed-out"
    assert "launch.timeout_seconds" in (statuses[0].reason or "")


ZERO3 = {"model": "llama2-toy", "variant": "zero3", "shape": "2x2"}


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_study_goes_on_where_it_stood(
    study_file: StudyFile, tmp_path: Path, blow: signal.Signals
) -> None:
    file = study_file(training={"steps": 200, "micro_batch": 1, "sequence_length": 16}, matrix=ZERO3)
    process, directory = start(file, tmp_path / "results")
    ranks = ranks_of(directory)
    process.send_signal(blow)
    _, said = process.communicate(timeout=120)
    wait_for(lambda: not any(alive(pid) for pid in ranks.values()))
    if blow == signal.SIGINT:
        assert process.returncode == 130 and "hpz: interrupted; finished runs are kept" in said
    assert directory.status().state in ("interrupted", "running")
    assert directory.status().final is None
    _, (status,) = run(file, tmp_path / "results")
    assert (status.state, status.attempts) == ("done", 2)


def start(file: Path, results: Path) -> tuple[subprocess.Popen[str], RunDirectory]:
    """`hpz run` of a study of one run, once its first step is done."""
    process, directory = start_only(file, results)
    wait_for(lambda: directory.steps_file.exists() and directory.steps_file.stat().st_size > 0)
    return process, directory


def start_only(file: Path, results: Path) -> tuple[subprocess.Popen[str], RunDirectory]:
    command = [sys.executable, "-m", "harness.cli", "run", str(file), "--results", str(results)]
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # Tests that were started in the background have Ctrl-C ignored, and would hand that on.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    (only,) = load_study(file).runs
    return process, RunDirectory(results / "runs" / only.run_id)


def ranks_of(directory: RunDirectory) -> dict[int, int]:
    """Rank → process: those whose standard output is a log of this run."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                target = str((entry / "fd" / "1").readlink())
            except OSError:
                continue
            if target.startswith(str(directory.logs)):
                found[int(Path(target).stem.removeprefix("rank-"))] = int(entry.name)
    assert len(found) == 4
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
