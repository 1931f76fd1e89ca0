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
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.record.directory import RunDirectory
from harness.record.metrics import read_lines
from harness.record.mirror import sole_pusher
from harness.record.session import Mode, Session, use_own_service

SECONDS = 10.0  # between looks at the files
LOWEST_PRIORITY = 19


@dataclass
class Followed:
    """A run that is being told, and the stamp of its steps when they were last read."""

    session: Session
    stamp: tuple[int, int, int] | None = None


def follow(folders: Sequence[Path], mode: Mode) -> int:
    """Tell all runs until standard input is closed; the number of those that could not be told to their end."""
    followed: dict[Path, Followed] = {}
    failed: set[Path] = set()
    with ExitStack() as locks:
        ending, seconds = False, 0.0
        while not ending:
            ending, seconds = bool(select.select([sys.stdin], [], [], seconds)[0]), SECONDS
            for folder in folders:
                if folder in failed:
                    continue
                try:
                    _tell(folder, mode, followed, locks, ending)
                except Exception as error:
                    failed.add(
                        folder
                    )  # wandb, a full disk: this run is left to the mirror at the end of the task
                    print(f"hpz: {folder.name} is no longer mirrored live: {error}", file=sys.stderr)
    return len(failed)


def _tell(folder: Path, mode: Mode, followed: dict[Path, Followed], locks: ExitStack, ending: bool) -> None:
    directory = RunDirectory(folder)
    if folder not in followed:
        if not any(read_lines(directory.steps_file)):
            return
        locks.enter_context(sole_pusher(directory.path, math.inf))
        followed[folder] = Followed(Session(directory, mode))
    one, stat = followed[folder], directory.steps_file.stat()
    stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if stamp != one.stamp:  # runs of a task take turns: most of them have nothing new
        one.session.log(list(read_lines(directory.steps_file)))
        one.stamp = stamp
    if ending:
        followed.pop(folder).session.finish()


def main(words: Sequence[str]) -> int:
    os.nice(LOWEST_PRIORITY)
    use_own_service()
    mode: Mode = "online" if words[0] == "online" else "offline"
    return int(follow([Path(word) for word in words[1:]], mode) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
