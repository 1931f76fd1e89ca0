"""Rebuild figures from results folders: `python -m analysis results/reference/laptop …` (what `make figures` runs)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from analysis.drawing import build_figures
from harness.errors import HarnessError


def main(folders: list[str]) -> int:
    """Rebuild the figures of each folder; returns the exit code."""
    started = time.perf_counter()
    try:
        drawn = [figure for folder in folders for figure in build_figures(Path(folder))]
    except HarnessError as error:
        print(f"hpz: {error}", file=sys.stderr)
        return 2
    for figure in drawn:
        if figure.svg is None:
            print(f"not drawn: {figure.caption}")
    count = sum(figure.svg is not None for figure in drawn)
    print(f"{count} figures of {len(folders)} studies in {time.perf_counter() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
