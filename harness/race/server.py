"""The warm process behind harness.race.launch: imports once, forks the ranks of job after job, waits for them.

JSON lines: {"job": FOLDER, "ranks": N, "port": P, "timeout": S, "patience": S} in, {"how":
"done|failed|stalled|timed-out", …} out.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from harness.race.explain import mismatch_in
from harness.race.launch import end_all

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.01
MISMATCH_SECONDS = 2.0  # idle for so long, ranks whose collectives differ are not waited for any more
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # older releases log to standard output as they are imported
    from harness.race.rank import import_everything

    import_everything(with_transformers="transformers" in sys.argv)
    gc.collect()
    gc.freeze()  # what looks through all objects for names, in the ranks, then passes over what was imported
    for line in sys.stdin:
        answers.write(json.dumps(serve(json.loads(line))) + "\n")
        answers.flush()


def serve(message: dict[str, Any]) -> dict[str, Any]:
    """Fork the ranks of a job and see them end."""
    folder = Path(message["job"])
    pids: dict[int, int] = {}
    for rank in range(message["ranks"]):
        pid = os.fork()
        if pid == 0:
            be_rank(folder, rank, message["ranks"], message["port"])
        pids[pid] = rank
    return watch(folder, pids, time.monotonic() + message["timeout"], message["patience"])


def watch(folder: Path, pids: dict[int, int], deadline: float, patience: float) -> dict[str, Any]:
    """Wait for all; the first failure, a stall or the deadline ends the others."""
    moved, used, ranks, spent, longest = time.monotonic(), 0.0, len(pids), 0.0, 0.0
    while pids:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid:
            rank, spent = pids.pop(pid), spent + usage.ru_utime + usage.ru_stime
            if status != 0:
                return end(pids, {"how": "failed", "rank": rank, "code": os.waitstatus_to_exitcode(status)})
            continue
        time.sleep(POLL_SECONDS)
        now, total = time.monotonic(), sum(map(processor_seconds, pids))
        if total > used + 0.05 or total < used:
            moved, used = now, total
        idle = now - moved
        longest = max(longest, idle)
        if idle > patience or (idle > MISMATCH_SECONDS and mismatch_in(folder, ranks, ended=False)):
            return end(pids, {"how": "stalled", "patience": patience})
        if now > deadline:
            return end(pids, {"how": "timed-out"})
    return {"how": "done", "processor_seconds": spent, "idle": longest}


def end(pids: dict[int, int], answer: dict[str, Any]) -> dict[str, Any]:
    end_all(pids)
    for pid in pids:
        os.waitpid(pid, 0)
    return answer


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def be_rank(folder: Path, rank: int, ranks: int, port: int) -> None:
    """The child: becomes one rank, logs to its own file and never returns."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        log = os.open(folder / f"log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        faulthandler.register(signal.SIGUSR2, file=sys.stderr, all_threads=False)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        from harness.race.rank import run_job

        run_job(folder, rank)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # skips teardown, where gloo's threads may abort a process whose work is complete


if __name__ == "__main__":
    main()
