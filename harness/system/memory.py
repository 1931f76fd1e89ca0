"""How much memory a command and all that it starts hold at the most, from /proc (Linux; proc(5), smaps_rollup)."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROC = Path("/proc")


class Peak:
    """The most bytes seen so far; None where the system does not tell."""

    nbytes: int | None = None


@contextmanager
def peak_of(pid: int, every: float = 0.5) -> Iterator[Peak]:
    """Look at a process and its descendants every so many seconds until the end of the block."""
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(every):
            if held := held_by(pid):
                peak.nbytes = max(held, peak.nbytes or 0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def held_by(pid: int) -> int:
    """Bytes of a process and its descendants now; what several share counts once. 0 where nothing is told."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for folder in PROC.glob("[0-9]*"):
        try:
            # The name in brackets may hold anything; behind it stand the state and the parent.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children[parent].append(int(folder.name))
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        total += _share(one)
        waiting += children[one]
    return total


def _share(pid: int) -> int:
    """Bytes of a process, each page it shares with n processes counted as 1/n."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
