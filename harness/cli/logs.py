"""`hpz logs`: what the ranks of a run printed, in this start of it and in those before."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from harness.record import OPEN, RunDirectory
from harness.system.errors import HarnessError, nearest

FOLLOW_SECONDS = 0.5


def logs(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run id or a part of one that no other has, or a run directory."
        ),
    ],
    rank: Annotated[int | None, typer.Option(help="Of this rank alone.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    results: Annotated[
        Path | None, typer.Option(help="Results folder; default: all folders of results/.")
    ] = None,
) -> None:
    """Print what the ranks of a run said, all its starts, the last one last. Example: hpz logs 8b30e8ba --rank 0"""
    directory = RunDirectory(find_run(run, results))
    earlier = directory.earlier_starts()
    for number, folder in enumerate([*earlier, directory.logs], start=1):
        files = _files(folder, rank)
        if files and earlier:
            print(f"== start {number} of {len(earlier) + 1}")
        for file in files:
            if rank is None:
                print(f"-- rank {_rank(file)}")
            sys.stdout.write(file.read_text(errors="replace"))
    if follow:
        _follow(directory, rank)
    elif not _files(directory.logs, rank) and not earlier:
        what = "no rank" if rank is None else f"rank {rank}"
        print(
            f"{what} of {directory.path.name} has printed anything: its state is {directory.status().state}"
        )


def find_run(run: str, results: Path | None) -> Path:
    """The run directory that `run` names. Raises HarnessError where none or several fit."""
    if (Path(run) / "run.json").exists():
        return Path(run)
    homes = [results] if results else sorted(Path("results").glob("*"))
    known = [folder for home in homes for folder in sorted((home / "runs").glob("*")) if folder.is_dir()]
    found = [folder for folder in known if folder.name == run] or [f for f in known if run in f.name]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(str(folder) for folder in found[:3])
        raise HarnessError(
            f"{run!r} fits {len(found)} runs ({some} …); give more of the run id, or --results"
        )
    where = str(results) if results else "results/"
    hint = nearest(run, [folder.name for folder in known[:200]]) if known else "there are no runs"
    raise HarnessError(f"no run of {where} is called {run!r}; {hint}")


def _files(folder: Path, rank: int | None) -> list[Path]:
    return sorted(folder.glob("rank-*.txt" if rank is None else f"rank-{rank}.txt"), key=_rank)


def _rank(file: Path) -> int:
    return int(file.stem.removeprefix("rank-"))


def _follow(directory: RunDirectory, rank: int | None) -> None:
    """Print what is added, until the run cannot go on; a new start begins its files anew."""
    seen = {file: file.stat().st_size for file in _files(directory.logs, rank)}
    while True:
        ended = directory.status().state not in OPEN
        for file in _files(directory.logs, rank):
            size = file.stat().st_size
            with file.open("rb") as stream:
                stream.seek(seen.get(file, 0) if size >= seen.get(file, 0) else 0)
                sys.stdout.write(stream.read().decode(errors="replace"))
            seen[file] = size
        sys.stdout.flush()
        if ended:
            return
        time.sleep(FOLLOW_SECONDS)
