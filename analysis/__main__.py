"""Figures and reference results from results folders.

python -m analysis figures FOLDER...   rebuild the figures (what `make figures` runs)
python -m analysis keep FOLDER...      copy what a report needs to results/reference/<study>, to be committed
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from harness.errors import HarnessError


def main(words: list[str]) -> int:
    """Run one of the two verbs; returns the exit code."""
    verbs = {"figures": rebuild, "keep": keep_all}
    if not words or words[0] not in verbs:
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    try:
        verbs[words[0]]([Path(word) for word in words[1:]])
    except HarnessError as error:
        print(f"hpz: {error}", file=sys.stderr)
        return 2
    return 0


def rebuild(folders: list[Path]) -> None:
    """Rebuild the figures of each folder and say how long it took."""
    from analysis.drawing import build_figures

    started = time.perf_counter()
    drawn = [figure for folder in folders for figure in build_figures(folder)]
    for figure in drawn:
        if figure.svg is None:
            print(f"not drawn: {figure.caption}")
    count = sum(figure.svg is not None for figure in drawn)
    print(f"{count} figures of {len(folders)} studies in {time.perf_counter() - started:.1f} s")


def keep_all(folders: list[Path]) -> None:
    """Copy the reference results of each folder and print where they lie."""
    from analysis.compact import keep

    for folder in folders:
        print(keep(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
