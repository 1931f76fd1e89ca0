"""Figures and reference results from results folders.

python -m analysis figures FOLDER...   rebuild the figures (what `make figures` runs)
python -m analysis keep FOLDER...      copy what a report needs to results/reference/<study>, to be committed
python -m analysis keep-unfinished FOLDER...   the same of a study that was stopped; its report says what is missing
python -m analysis artifact OUT        run what ARTIFACT.md claims and compare (what `make artifact` runs)
python -m analysis kick OUT            the part of it that takes five minutes
python -m analysis claims              its steps and claims, as they stand in ARTIFACT.md
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from harness.system.errors import HarnessError


def main(words: list[str]) -> int:
    """Run one of the verbs; returns the exit code: 1 where a figure could not be drawn, 2 for bad input."""
    verbs: dict[str, Callable[[list[Path]], int]] = {
        "figures": rebuild,
        "keep": keep_all,
        "keep-unfinished": partial(keep_all, unfinished=True),
        "artifact": examine,
        "kick": partial(examine, kick=True),
        "claims": claims,
    }
    if not words or words[0] not in verbs:
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    try:
        return verbs[words[0]]([Path(word) for word in words[1:]])
    except HarnessError as error:
        print(f"hpz: {error}", file=sys.stderr)
        return 2


def rebuild(folders: list[Path]) -> int:
    """Rebuild the figures of each folder and say how long it took; 1 where one could not be drawn."""
    from analysis.draw.drawing import build_figures

    started = time.perf_counter()
    if len(folders) > 1:
        cores = len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(min(len(folders), cores), get_context("spawn")) as pool:
            found = list(pool.map(build_figures, folders))
    else:
        found = [build_figures(folder) for folder in folders]
    drawn = [figure for figures in found for figure in figures]
    failed = [figure for figure in drawn if figure.svg is None]
    for figure in failed:
        print(f"hpz: {figure.caption}", file=sys.stderr)
    seconds = time.perf_counter() - started
    print(f"{len(drawn) - len(failed)} figures of {len(folders)} studies in {seconds:.1f} s")
    return 1 if failed else 0


def keep_all(folders: list[Path], unfinished: bool = False) -> int:
    """Copy the reference results of each folder and print where they lie."""
    from analysis.reference.corpus import NAME, keep_corpus
    from analysis.reference.keep import keep

    for folder in folders:
        is_corpus = (folder / NAME).is_file()
        print(keep_corpus(folder) if is_corpus else keep(folder, unfinished=unfinished))
    return 0


def examine(folders: list[Path], kick: bool = False) -> int:
    """Run the artefact's claims into a folder and print the table; 1 where one is different."""
    from analysis.reference.artifact import examine, table

    (out,) = folders or [Path("results/artifact")]
    found = examine(out, kick, say=lambda text: print(text, flush=True))
    print("", *table(found), f"\nlogs and artifact.json: {out}", sep="\n")
    return 0 if all(one.ok for one in found) else 1


def claims(_: list[Path]) -> int:
    """Print the steps and claims of the artefact."""
    from analysis.reference.artifact import page

    print(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
