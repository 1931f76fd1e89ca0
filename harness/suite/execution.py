"""One execution of a test: processes forked for it, waited for, ended where they do not end; what they left behind."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.race.job import Job, Program
from harness.race.report import RankReport
from harness.system.parent import die_with, place_of
from harness.system.ports import Port
from harness.system.processes import has_ended, processor_seconds, stat_fields

POLL_SECONDS = 0.02
IDLE_SECONDS = 45.0  # none of a test's processes has used the processor for so long: they wait for each other
LAST_WORDS_SECONDS = 3.0


@dataclass(frozen=True)
class Execution:
    """A test under one policy, or analysed."""

    policy: str
    reports: tuple[
        pytest.TestReport, ...
    ]  # of its phases, by the process whose test failed, else by the first
    ranks: tuple[RankReport, ...]  # of each process that worked on the device
    ended: str | None = None  # why it did not come to its end by itself

    @property
    def passed(self) -> bool:
        return self.ended is None and all(report.passed for report in self.reports)


def execute(item: pytest.Item, policy: str, ranks: int, timeout: float, folder: Path) -> Execution:
    """Run a test once, by so many processes."""
    job = Job(Program(ranks=ranks, map_cuda=True), policy=policy, analyse=policy == "busy")
    folder.mkdir()
    with Port() as port:
        pids = [
            _fork(item, job, folder, place_of(rank, ranks, port.number) if ranks > 1 else {})
            for rank in range(ranks)
        ]
        try:
            ended = _wait(pids, timeout)
        finally:
            for pid in pids:
                _end(pid)
    return _collected(item, policy, folder, pids, ended)


def _fork(item: pytest.Item, job: Job, folder: Path, place: dict[str, str]) -> int:
    from harness.suite.process import run_test

    session = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.setsid()  # so that all of the test's processes can be ended together
        die_with(session)
        run_test(item, job, folder, place)
    return pid


def _wait(pids: list[int], timeout: float) -> str | None:
    """Until all have ended; why they had to be ended, else None."""
    deadline, moved, used = time.monotonic() + timeout, time.monotonic(), 0.0
    looked = 0.0
    while any(not has_ended(pid) for pid in pids):
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        if now > deadline:
            _last_words(pids)
            return f"it did not end within {timeout:.0f} s"
        if now - looked > 1.0:
            looked, total = now, sum(spent for _, spent in _processes(pids))
            if abs(total - used) > 0.05:
                moved, used = now, total
            if now - moved > IDLE_SECONDS:
                _last_words(pids)
                return (
                    f"its processes waited for each other: none used the processor for {IDLE_SECONDS:.0f} s"
                )
    return None


def _processes(sessions: list[int]) -> Iterator[tuple[int, float]]:
    """The processes of these sessions, each with the seconds of processor time that it has used."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = stat_fields(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) in sessions and fields[0] != "Z":
            yield int(folder.name), processor_seconds(fields)


def _last_words(pids: list[int]) -> None:
    """Let every process write what it has seen (see write_when_asked)."""
    for pid, _ in _processes(pids):
        os.kill(pid, signal.SIGUSR1)
    time.sleep(LAST_WORDS_SECONDS)


def _end(pid: int) -> None:
    """Nothing of a test outlives it."""
    for other, _ in list(_processes([pid])):
        try:
            os.kill(other, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os.waitpid(pid, 0)


def _collected(item: pytest.Item, policy: str, folder: Path, pids: list[int], ended: str | None) -> Execution:
    told: list[tuple[pytest.TestReport, ...]] = []
    for pid in pids:
        failed, file = folder / f"failed-{pid}.txt", folder / f"reports-{pid}.json"
        if file.exists():
            told.append(tuple(read_report(item.config, one) for one in json.loads(file.read_text())))
        elif ended is None:
            ended = failed.read_text() if failed.exists() else "its process was killed"
    reports = next((one for one in told if any(report.failed for report in one)), told[0] if told else ())
    files = sorted(folder.glob("rank-process-*.json"))
    ranks = [RankReport.model_validate(json.loads(file.read_text())["report"]) for file in files]
    worked = sorted((rank for rank in ranks if rank.ops), key=lambda rank: rank.rank)
    return Execution(policy, reports, tuple(worked), ended)


def read_report(config: pytest.Config, content: dict[str, object]) -> pytest.TestReport:
    """A report as pytest wrote it in another process."""
    report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=content)
    told: object = report.longrepr
    if isinstance(told, list):  # a skip's place, of which JSON has made a list
        report.longrepr = (*told,)
    return report
