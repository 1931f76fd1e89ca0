"""Mirrors runs to wandb while they train: a process of the array task, beside its ranks and in no one's way.

`python -m harness.record.live MODE RUN_DIRECTORY…` reads the local files every few seconds and tells wandb what is new,
until its standard input is closed, which is when its parent ends it or is gone. Whatever becomes of it harms no run:
what it did not tell, the mirror at the end of the task does.
"""

from __future__ import annotations

import math
import os
import select
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from harness.record.directory import RunDirectory
from harness.record.metrics import read_lines
from harness.record.mirror import sole_pusher
from harness.record.session import Mode, Session, use_own_service

SECONDS = 10.0  # between looks at the files
RECENT_SECONDS = 10 * SECONDS  # a file that was not written to for so long was read since
LOWEST_PRIORITY = 19


def follow(folders: Sequence[Path], mode: Mode) -> int:
    """Tell all runs until standard input is closed; the number of those that could not be told to their end."""
    sessions: dict[Path, Session] = {}
    failed: set[Path] = set()
    with ExitStack() as locks:
        ending, seconds = False, 0.0
        while not ending:
            ending, seconds = bool(select.select([sys.stdin], [], [], seconds)[0]), SECONDS
            for folder in folders:
                if folder in failed:
                    continue
                try:
                    _tell(folder, mode, sessions, locks, ending)
                except Exception as error:
                    failed.add(
                        folder
                    )  # wandb, a full disk: this run is left to the mirror at the end of the task
                    print(f"hpz: {folder.name} is no longer mirrored live: {error}", file=sys.stderr)
    return len(failed)


def _tell(folder: Path, mode: Mode, sessions: dict[Path, Session], locks: ExitStack, ending: bool) -> None:
    directory = RunDirectory(folder)
    changed = (
        directory.steps_file.exists() and time.time() - directory.steps_file.stat().st_mtime < RECENT_SECONDS
    )
    if folder in sessions and not changed and not ending:
        return  # runs of a task take turns: most of them have nothing to tell
    lines = list(read_lines(directory.steps_file))
    if folder not in sessions:
        if not lines:
            return
        locks.enter_context(sole_pusher(directory.path, math.inf))
        sessions[folder] = Session(directory, mode)
    sessions[folder].log(lines)
    if ending:
        sessions.pop(folder).finish()


def main(words: Sequence[str]) -> int:
    os.nice(LOWEST_PRIORITY)
    use_own_service()
    mode: Mode = "online" if words[0] == "online" else "offline"
    return int(follow([Path(word) for word in words[1:]], mode) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
