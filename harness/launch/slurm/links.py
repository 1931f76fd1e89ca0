"""Which node a slow link is to be blamed on, from how fast nodes sent to each other one at a time.

A slow transfer alone accuses two: its sender and its receiver. Every fast transfer clears one node as a sender and one
as a receiver, so that three nodes tell who it is, and two cannot; a node tried later with a third one tells it then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

Transfer = tuple[str, str]  # from one node to another
End = tuple[str, str]  # a node and what it does: sends, receives


@dataclass(frozen=True)
class Blame:
    """Nodes at fault, each with its slow transfers; and those of whom one is, which cannot be told."""

    guilty: Mapping[str, tuple[Transfer, ...]]
    unsure: Mapping[str, tuple[Transfer, ...]]  # the likelier first
    between: tuple[Transfer, ...] = ()  # slow, though both nodes do well with others


def blame(rates: Mapping[Transfer, float], least: float) -> Blame:
    """Who is at fault that some rates are below `least` (any unit)."""
    cleared = {
        end for (sender, receiver), rate in rates.items() if rate >= least for end in _ends(sender, receiver)
    }
    slow = [transfer for transfer, rate in rates.items() if rate < least]
    guilty: dict[str, tuple[Transfer, ...]] = {}
    unsure: dict[str, tuple[Transfer, ...]] = {}
    while slow:
        accused = {transfer: [end for end in _ends(*transfer) if end not in cleared] for transfer in slow}
        alone = next((ends[0][0] for ends in accused.values() if len(ends) == 1), None)
        node = alone or _likeliest(accused)
        if node is None:
            break
        told = tuple(t for t, ends in accused.items() if node in {name for name, _ in ends})
        rival = None if alone else _rival(accused, node)
        if rival is None:
            guilty[node] = told
        else:
            unsure[node] = told
            unsure[rival] = tuple(t for t, ends in accused.items() if rival in {name for name, _ in ends})
        slow = [transfer for transfer in slow if transfer not in told]
    return Blame(guilty, {node: told for node, told in unsure.items() if node not in guilty}, tuple(slow))


def _ends(sender: str, receiver: str) -> tuple[End, End]:
    return (sender, "sends"), (receiver, "receives")


def _counts(accused: Mapping[Transfer, list[End]]) -> Counter[str]:
    """How many slow transfers each node would explain; of equals the one that sends comes first."""
    return Counter(name for ends in accused.values() for name in dict.fromkeys(name for name, _ in ends))


def _likeliest(accused: Mapping[Transfer, list[End]]) -> str | None:
    most = _counts(accused).most_common(1)
    return most[0][0] if most else None


def _rival(accused: Mapping[Transfer, list[End]], node: str) -> str | None:
    """Another node that explains as many of the slow transfers."""
    counts = _counts(accused)
    return next((other for other, count in counts.items() if other != node and count >= counts[node]), None)
