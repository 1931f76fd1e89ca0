"""Parameter shapes of many layers in a few lines: `model.layers.{0..31}.mlp.up_proj.weight: [14336, 4096]`.

A model file keeps shapes so, and in the order of named_parameters(): adjacent lines with the same range are one block,
which is repeated as a whole for each number of the range.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

Shapes = list[tuple[str, tuple[int, ...]]]  # (parameter name, its shape), in the order of named_parameters()
Lines = Sequence[tuple[str, tuple[int, ...]]]  # the same with ranges in names

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def expand(lines: Mapping[str, Sequence[int]]) -> Shapes:
    """Every parameter that the lines stand for."""
    return list(_expanded([(name, tuple(shape)) for name, shape in lines.items()]))


def compress(shapes: Iterable[tuple[str, Sequence[int]]]) -> dict[str, list[int]]:
    """The lines that `expand` turns into `shapes` again."""
    return {name: list(shape) for name, shape in _compressed([(name, tuple(s)) for name, s in shapes])}


def _expanded(lines: Lines) -> Iterator[tuple[str, tuple[int, ...]]]:
    for head, block in groupby(lines, _up_to_range):
        found = _RANGE.search(head)
        if found is None:
            yield from block
            continue
        inner = [(name[len(head) :], shape) for name, shape in block]
        for number in range(int(found[1]), int(found[2]) + 1):
            yield from _named(f"{head[: found.start()]}{number}", _expanded(inner))


def _up_to_range(line: tuple[str, tuple[int, ...]]) -> str:
    """A name's beginning with its first range, or the whole of a name that has none."""
    found = _RANGE.search(line[0])
    return line[0][: found.end()] if found else line[0]


def _compressed(shapes: Lines) -> Iterator[tuple[str, tuple[int, ...]]]:
    for head, group in groupby(shapes, _up_to_number):
        if head is None:
            yield from group
            continue
        rest = [(name[len(head) :], shape) for name, shape in group]
        numbered = [
            (int(number), [(name[len(number) :], shape) for name, shape in block])
            for number, block in groupby(rest, lambda line: line[0].split(".")[0])
        ]
        for first, last, block in _runs(numbered):
            where = f"{{{first}..{last}}}" if last > first else str(first)
            yield from _named(head + where, _compressed(block))


def _up_to_number(line: tuple[str, tuple[int, ...]]) -> str | None:
    """A name's beginning before its first number, None where it has none."""
    found = _NUMBER.search(line[0])
    return line[0][: found.start()] if found else None


def _runs(numbered: Sequence[tuple[int, Lines]]) -> Iterator[tuple[int, int, Lines]]:
    """(first, last, content) of neighbours in number that hold the same."""
    start = 0
    for end in range(1, len(numbered) + 1):
        (first, block), last = numbered[start], numbered[end - 1][0]
        if end == len(numbered) or numbered[end] != (last + 1, block):
            yield first, last, block
            start = end


def _named(head: str, lines: Iterable[tuple[str, tuple[int, ...]]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    return ((head + name, shape) for name, shape in lines)
