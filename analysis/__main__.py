"""Figures and reference results from results folders.

python -m analysis figures FOLDER...   rebuild the figures (what `make figures` runs)
python -m analysis keep FOLDER...      copy what a report needs to results/reference/<study>, to be committed
python -m analysis keep-unfinished FOLDER...   the same of a study that was stopped; its report says what is missing
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
