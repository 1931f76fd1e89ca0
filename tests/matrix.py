"""`python -m tests.matrix REPORT`: writes the line of this environment into tests/matrix.md, from a JUnit file.

noxfile.py calls it in each environment.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

TABLE = Path(__file__).with_suffix(".md")
HEAD = """# Releases of torch and DeepSpeed, as last tried

Written by `make matrix` (noxfile.py says what runs in which environment); not by hand. Each line is replaced when its
environment is tried again. Where DeepSpeed is not that of constraints.txt, the tests of the installed one run alone.

"""
COLUMNS = ("torch", "DeepSpeed", "transformers", "python", "date", "passed", "skipped", "failed")
KEY = 2  # columns that say which line is meant


def row_of(report: Path) -> tuple[str, ...]:
    """The line of this environment."""
    packages = [version(name).partition("+")[0] for name in ("torch", "deepspeed", "transformers")]
    today = datetime.now(UTC).date().isoformat()
    return (*packages, platform.python_version(), today, *outcomes(report))


def outcomes(report: Path) -> tuple[str, str, str]:
    """How many tests passed, were skipped and failed, the latter by name."""
    counted: Counter[str] = Counter()
    failed = []
    for case in ElementTree.parse(report).iter("testcase"):
        (outcome,) = {child.tag for child in case} & {"failure", "error", "skipped"} or {"passed"}
        counted[outcome] += 1
        if outcome in ("failure", "error"):
            failed.append(f"`{case.attrib['name'].replace('|', '/')}`")
    return (
        str(counted["passed"]),
        str(counted["skipped"]),
        f"{len(failed)}: {', '.join(failed)}" if failed else "0",
    )


def rows_in(text: str) -> list[tuple[str, ...]]:
    """The lines of a table that was written before."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[1:]]


def with_row(text: str, row: tuple[str, ...]) -> str:
    """The table with this line in its place."""
    rows = {old[:KEY]: old for old in rows_in(text)} | {row[:KEY]: row}
    lines = [COLUMNS, *(rows[key] for key in sorted(rows, key=_numbers))]
    table = [line_of(line) for line in lines]
    return HEAD + "\n".join([table[0], "|---" * len(COLUMNS) + "|", *table[1:]]) + "\n"


def line_of(row: tuple[str, ...]) -> str:
    return f"| {' | '.join(row)} |"


def _numbers(key: tuple[str, ...]) -> list[list[int]]:
    return [[int(part) for part in release.split(".")] for release in key]


def main() -> None:
    row = row_of(Path(sys.argv[1]))
    TABLE.write_text(with_row(TABLE.read_text() if TABLE.exists() else "", row))
    print(line_of(row))


if __name__ == "__main__":
    main()
