"""Logs made short: what several ranks said alike is kept once, and the middle of a long one is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FIRST, LAST = 200, 800  # lines of a log that are kept
LARGEST = 16 << 20  # bytes of a log that are read at all, half of them from its end


def read_log(file: Path) -> str:
    """A log as text; of one that is very large the beginning and the end."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= LARGEST:
            return stream.read().decode(errors="replace")
        head = stream.read(LARGEST // 2)
        stream.seek(-LARGEST // 2, 2)
        left_out = f"\n[… {size - LARGEST:,} bytes left out …]\n".encode()
        return (head + left_out + stream.read()).decode(errors="replace")


def compact(logs: Mapping[int, str]) -> str:
    """The logs of one start, by rank, as one text: a heading names the ranks that said what follows it."""
    alike: dict[str, list[int]] = {}
    for rank, text in sorted(logs.items()):
        alike.setdefault(text, []).append(rank)
    parts = [f"== {_named(ranks)}\n{shortened(text)}" for text, ranks in alike.items()]
    return "".join(part if part.endswith("\n") else part + "\n" for part in parts)


def shortened(text: str, first: int = FIRST, last: int = LAST) -> str:
    """A text without its middle where it is longer than `first` + `last` lines, which is said in its place."""
    lines = text.splitlines(keepends=True)
    out = len(lines) - first - last
    if out <= 0:
        return text
    return "".join([*lines[:first], f"[… {out:,} lines left out …]\n", *lines[-last:]])


def _named(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
