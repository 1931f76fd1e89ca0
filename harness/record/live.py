"""Mirrors runs to wandb while they train: a process of the array task, beside its ranks and in no one's way.

`python -m harness.record.live MODE RUN_DIRECTORY…` reads the local files every few seconds and tells wandb what is new,
until its standard input is closed, which is when its parent ends it or is gone. Whatever becomes of it harms no run:
what it did not tell, the mirror at the end of the task does.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from harness.record.directory import RunDirectory
from harness.record.mirror import Mode, Session, read_lines, sole_pusher

SECONDS = 10.0  # between looks at the files
LOWEST_PRIORITY = 19


def follow(folders: Sequence[Path], mode: Mode) -> int:
    """Tell all runs until standard input is closed; the number of those that could not be told to their end."""
    sessions: dict[Path, Session] = {}
    failed: set[Path] = set()
    with ExitStack() as locks:
        ending = False
        while not ending:
            ending = bool(select.select([sys.stdin], [], [], SECONDS)[0])
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
    lines = list(read_lines(directory.steps_file))
    if folder not in sessions:
        if not lines:
            return
        locks.enter_context(sole_pusher(directory))
        sessions[folder] = Session(directory, mode)
    sessions[folder].log(lines)
    if ending:
        sessions.pop(folder).finish()


def main(words: Sequence[str]) -> int:
    os.nice(LOWEST_PRIORITY)
    # A service that others started would keep our runs if we were killed.
    os.environ.pop("WANDB_SERVICE", None)
    mode: Mode = "online" if words[0] == "online" else "offline"
    return int(follow([Path(word) for word in words[1:]], mode) > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
