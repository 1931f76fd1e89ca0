"""What steps take on each rank (ranks.jsonl), and which rank or node the others wait for.

All ranks of a run take as long for a step, since they wait for each other; who is slow is told by what a rank takes
without its waits for communication: its own time.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LEAST_RATIO = 1.05  # a rank this much slower than the others is worth a word,
LEAST_SHARE = 0.01  # if that is this share of a step at least
CONFIDENCE = 0.95  # that none of the ranks is called slow by chance
TAIL_BYTES = 1 << 18  # of a file that is only looked at


@dataclass(frozen=True)
class Window:
    """Some consecutive steps of a run: mean seconds a step on each rank, in rank order."""

    from_step: int
    until_step: int
    nodes: tuple[str, ...]
    step_seconds: tuple[float, ...]
    own_seconds: tuple[float, ...]  # without waits for communication

    def line(self) -> str:
        return json.dumps({"schema": 1, **asdict(self)}) + "\n"

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Window:
        nodes, steps, own = (tuple(content[key]) for key in ("nodes", "step_seconds", "own_seconds"))
        return cls(int(content["from_step"]), int(content["until_step"]), nodes, steps, own)


def read_windows(file: Path, tail: bool = False) -> list[Window]:
    """The windows of a run, in the order written; `tail`: only the last of a long file. Half lines are passed over."""
    try:
        with file.open("rb") as stream:
            if tail:
                size = stream.seek(0, 2)
                stream.seek(max(0, size - TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(Window.from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            continue
    return found


@dataclass(frozen=True)
class Pace:
    """How a rank's own time compares with the others' (their median), over windows of steps."""

    rank: int
    node: str
    own_seconds: float  # a step, median
    ratio: float  # to the others' median; median over windows
    low: float | None  # ends of its interval; None with too few windows
    high: float | None
    excess_seconds: float  # a step, over the others
    step_seconds: float

    @property
    def slow(self) -> bool:
        """Whether this is more than noise, and more than nothing."""
        share = self.excess_seconds / self.step_seconds if self.step_seconds > 0 else 0.0
        return self.low is not None and self.low > LEAST_RATIO and share > LEAST_SHARE


def paces(windows: Sequence[Window], warmup: int = 0) -> list[Pace]:
    """One a rank, of windows that begin after `warmup` steps on the nodes that the last one had; empty without any.

    The interval is that of the median by ranks of the ratios (binomial), for all ranks together CONFIDENCE: it takes
    windows for independent.
    """
    late = [window for window in windows if window.from_step >= warmup] or []
    kept = [window for window in late if window.nodes == late[-1].nodes and min(window.own_seconds) > 0]
    if not kept or len(kept[-1].nodes) < 2:
        return []
    others = [others_medians(window.own_seconds) for window in kept]
    return [_pace(rank, kept, others) for rank in range(len(kept[-1].nodes))]


def _pace(rank: int, windows: Sequence[Window], others: Sequence[Sequence[float]]) -> Pace:
    own = [window.own_seconds[rank] for window in windows]
    theirs = [medians[rank] for medians in others]
    ratios = [mine / usual for mine, usual in zip(own, theirs, strict=True)]
    low, high = median_interval(ratios, 1 - (1 - CONFIDENCE) / len(windows[0].nodes))
    return Pace(
        rank=rank,
        node=windows[-1].nodes[rank],
        own_seconds=statistics.median(own),
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        excess_seconds=statistics.median(mine - usual for mine, usual in zip(own, theirs, strict=True)),
        step_seconds=statistics.median(window.step_seconds[rank] for window in windows),
    )


def others_medians(values: Sequence[float]) -> list[float]:
    """For each value the median of all others."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranked = [values[index] for index in order]
    place = {index: position for position, index in enumerate(order)}
    return [_median_without(ranked, place[index]) for index in range(len(values))]


def _median_without(ranked: Sequence[float], left_out: int) -> float:
    def at(position: int) -> float:
        return ranked[position + (position >= left_out)]

    count = len(ranked) - 1
    return (at((count - 1) // 2) + at(count // 2)) / 2


def median_interval(values: Sequence[float], confidence: float) -> tuple[float | None, float | None]:
    """Interval of the median between two order statistics; (None, None) where there are too few values for it."""
    ranked, count = sorted(values), len(values)
    outside, cut = 0.0, 0
    while cut <= count // 2:  # how many may be cut off at either end
        outside += 2 * math.comb(count, cut) * 0.5**count
        if outside > 1 - confidence:
            break
        cut += 1
    return (ranked[cut - 1], ranked[count - cut]) if cut else (None, None)


@dataclass(frozen=True)
class Slow:
    """A rank, or all ranks of a node, that the others wait for."""

    node: str
    ranks: tuple[int, ...]
    whole_node: bool
    ratio: float  # of the one among them that is least slow
    excess_seconds: float
    step_seconds: float

    @property
    def sentence(self) -> str:
        several = len(self.ranks) > 1
        who = f"rank{'s' if several else ''} {', '.join(map(str, self.ranks))} on {self.node}"
        if self.whole_node and several:
            who = f"node {self.node} (rank{'s' if several else ''} {self.ranks[0]} to {self.ranks[-1]})"
        return (
            f"{who}: {100 * (self.ratio - 1):.0f} % longer than the others, "
            f"{1e3 * self.excess_seconds:.0f} of the {1e3 * self.step_seconds:.0f} ms of a step"
        )

    @property
    def short(self) -> str:
        ranks = f"{self.ranks[0]}-{self.ranks[-1]}" if len(self.ranks) > 1 else f"{self.ranks[0]}"
        return f"{self.node}: rank {ranks} +{100 * (self.ratio - 1):.0f} %"


def slow_ranks(found: Iterable[Pace]) -> list[Slow]:
    """Who is slow, node by node."""
    by_node: dict[str, list[Pace]] = {}
    for pace in found:
        by_node.setdefault(pace.node, []).append(pace)
    said = []
    for node, mine in by_node.items():
        if slow := [pace for pace in mine if pace.slow]:
            least = min(slow, key=lambda pace: pace.ratio)
            ranks = tuple(pace.rank for pace in slow)
            whole = len(slow) == len(mine) and len(by_node) > 1
            said.append(Slow(node, ranks, whole, least.ratio, least.excess_seconds, least.step_seconds))
    return said
