"""The warm process behind harness.race.launch: imports once, forks the ranks of job after job, waits for them.

JSON lines: {"job": FOLDER, "ranks": N, "port": P, "timeout": S, "patience": S} in, {"how":
"done|failed|stalled|timed-out", …} out.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from harness.race.explain import mismatch_in, text_of
from harness.system.imports import explained_imports
from harness.system.parent import Parent, place_of
from harness.system.processes import has_ended, processor_seconds, stat_fields

POLL_SECONDS = 0.01
MISMATCH_SECONDS = 2.0  # idle for so long, ranks whose collectives differ are not waited for any more
DUMP_SECONDS = 10.0  # for ranks to say where they stand and what they have seen
OTHERS_SECONDS = 3.0  # after the first failure, for the other ranks to fail of it
OUTERMOST = re.compile(
    r'^  (File "<frozen runpy>", line \d+ in _run_module_as_main|File "<string>", line \d+ in <module>|\.\.\.)$',
    re.M,
)


def main() -> None:
    """Serve until the launcher wants no more or is gone; the ranks then die with this process."""
    launcher, started = Parent(), time.monotonic()
    with explained_imports():
        from harness.race.rank import import_everything

        import_everything(with_transformers="transformers" in sys.argv, map_cuda="map-cuda" in sys.argv)
    gc.collect()
    imports = time.monotonic() - started
    gc.freeze()  # what looks through all objects for names, in the ranks, then passes over what was imported
    while (commands := launcher.commands()) is not None:
        for command in commands:
            launcher.answer({**serve(command, launcher), "imports": imports})


def serve(message: dict[str, Any], launcher: Parent) -> dict[str, Any]:
    """Fork the ranks of a job and see them end."""
    folder, ranks = Path(message["job"]), message["ranks"]
    pids: dict[int, int] = {}
    for rank in range(ranks):
        place = place_of(rank, ranks, message["port"])
        pids[launcher.fork_rank(partial(run, folder, rank), folder / f"log-{rank}.txt", place)] = rank
    return watch(folder, pids, time.monotonic() + message["timeout"], message["patience"], launcher)


def watch(
    folder: Path, pids: dict[int, int], deadline: float, patience: float, launcher: Parent
) -> dict[str, Any]:
    """Wait for all; soon after the first failure, a stall, the deadline or the end of the launcher ends the others."""
    moved, used, ranks, spent, longest = time.monotonic(), 0.0, len(pids), 0.0, 0.0
    ended: list[int] = []  # ranks that ended well
    failed: dict[int, int] = {}  # rank → its code, in the order in which they failed
    while pids:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid:
            rank, spent = pids.pop(pid), spent + usage.ru_utime + usage.ru_stime
            if status == 0:
                ended.append(rank)
                continue
            if not failed:  # the others may be about to fail of it, or it of them
                deadline = min(deadline, time.monotonic() + OTHERS_SECONDS)
            failed[rank] = os.waitstatus_to_exitcode(status)
            continue
        if failed and time.monotonic() > deadline:
            break
        if launcher.speaks_within(POLL_SECONDS):
            return end(folder, pids, {"how": "not wanted"})  # it says nothing while a job runs, so it is gone
        now, total = time.monotonic(), sum(map(seconds_used, pids))
        if total > used + 0.05 or total < used:
            moved, used = now, total
        idle = now - moved
        longest = max(longest, idle)
        if failed:
            continue
        if idle > patience or (idle > MISMATCH_SECONDS and mismatch_in(folder, ranks, ended=False)):
            return end(folder, pids, {"how": "stalled", "patience": patience})
        if now > deadline:
            return end(folder, pids, {"how": "timed-out"})
    if failed:
        codes = [[rank, code] for rank, code in failed.items()]
        return end(folder, pids, {"how": "failed", "failed": codes, "ended": ended})
    return {"how": "done", "processor_seconds": spent, "idle": longest}


def end(folder: Path, pids: dict[int, int], answer: dict[str, Any]) -> dict[str, Any]:
    """Let each rank dump where it stands (faulthandler on SIGUSR2) and what it has seen, then kill all."""
    writes = not (folder / "run").exists()  # a rank of a script does, see write_when_asked
    for pid in pids:
        os.kill(pid, signal.SIGUSR2)
        if writes:
            os.kill(pid, signal.SIGUSR1)
    deadline = time.monotonic() + DUMP_SECONDS
    while time.monotonic() < deadline:
        if all(has_ended(pid) or has_spoken(folder, rank, writes) for pid, rank in pids.items()):
            break
        time.sleep(POLL_SECONDS)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)
    return answer


def has_spoken(folder: Path, rank: int, writes: bool) -> bool:
    """Whether a rank has dumped where it stands and, where it does that, has written what it has seen."""
    return has_dumped(folder / f"log-{rank}.txt") and (not writes or (folder / f"rank-{rank}.json").exists())


def has_dumped(log: Path) -> bool:
    """Whether a rank's traceback is there down to its outermost frame, which it has from this program."""
    return bool(OUTERMOST.search(text_of(log)))


def seconds_used(pid: int) -> float:
    """User and system time of a process so far; 0 once it is gone."""
    try:
        return processor_seconds(stat_fields(pid))
    except OSError:
        return 0.0


def run(folder: Path, rank: int) -> None:
    """What a forked rank does."""
    faulthandler.register(signal.SIGUSR2, file=sys.stderr, all_threads=False)
    from harness.race.rank import run_job

    run_job(folder, rank)


if __name__ == "__main__":
    main()
