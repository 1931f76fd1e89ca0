"""What a cluster's profile expects of a node (`health:`), and what is found wrong with nodes that do not give it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from harness.launch.slurm.node import Facts
from harness.launch.slurm.nvidia_smi import Gpu
from harness.study import Frozen


class Health(Frozen):
    """What a node must have, and how many may be left out for not having it; a key left out is not judged."""

    exclude_at_most: int = Field(
        default=0, ge=0
    )  # nodes that a study leaves out at a time; 0: they are only named
    exclude_hours: float = Field(default=24, gt=0)  # until a node that was left out is tried again
    gpu: str | None = None  # part of the name that nvidia-smi gives every card
    gpu_memory_free: float = Field(default=0.9, ge=0, le=1)  # share of each card's
    memory_free_gb: float | None = Field(default=None, gt=0)  # of the node
    tmp_free_gb: float = Field(default=1, ge=0)  # where temporary files go
    results_free_gb: float = Field(default=1, ge=0)  # where results go
    clock_skew_seconds: float = Field(default=5, gt=0)  # from the node that looks
    # Bandwidth is judged where network_baseline measures it. Over gloo both are what processors and memory allow.
    inside_node_gbit_s: float | None = Field(default=None, gt=0)  # bus bandwidth of an all-gather
    between_nodes_gbit_s: float | None = Field(
        default=None, gt=0
    )  # of a node to another, all its ranks at once
    tolerance: float = Field(default=0.3, ge=0, lt=1)  # share of both that may be missing

    def least(self, expected: float) -> float:
        """The lowest bandwidth that passes."""
        return expected * (1 - self.tolerance)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `node` is None where it cannot be told which one is at fault, or none is."""

    check: str  # answer, gpus, memory, disk, clock, inside, links
    says: str
    node: str | None = None

    @property
    def sentence(self) -> str:
        return f"{self.node}: {self.says}" if self.node else self.says


@dataclass(frozen=True)
class Asked:
    """Facts, and when they were asked for on the clock of the node that asked: seconds since 1970."""

    facts: Mapping[str, Facts]
    before: float
    after: float


def judge(asked: Asked, nodes: Sequence[str], health: Health, gpus_needed: int) -> list[Finding]:
    """What is wrong with these nodes, by what each said of itself. `gpus_needed` on each; 0: none is used."""
    # Where none has answered it is not the nodes' fault.
    silent = [Finding("answer", "did not answer", node) for node in nodes if node not in asked.facts]
    silent = silent if asked.facts else [Finding("answer", "no node answered")]
    found = [finding for facts in asked.facts.values() for finding in _of_node(facts, health, gpus_needed)]
    clocks = [
        Finding(
            "clock", f"its clock is at least {abs(off):.1f} s {'ahead' if off > 0 else 'behind'}", facts.node
        )
        for facts in asked.facts.values()
        if abs(off := clock_off(facts.time, asked)) > health.clock_skew_seconds
    ]
    alike = _unlike(asked.facts) if gpus_needed else []
    return [*silent, *found, *clocks, *alike, *_results(asked.facts.values(), health)]


def clock_off(told: float, asked: Asked) -> float:
    """How far at least a clock is off, in seconds: it was read between the question and the last answer."""
    return told - asked.after if told > asked.after else min(told - asked.before, 0.0)


def _of_node(facts: Facts, health: Health, gpus_needed: int) -> Iterable[Finding]:
    cards = facts.cards
    if cards is not None and gpus_needed:
        if cards.problem:
            yield Finding("gpus", cards.problem, facts.node)
        if not cards.problem and len(cards.gpus) < gpus_needed:
            yield Finding("gpus", f"has {len(cards.gpus)} GPUs of {gpus_needed}", facts.node)
        for index, gpu in enumerate(cards.gpus):
            for trouble in _of_gpu(gpu, health):
                yield Finding("gpus", f"GPU {index}: {trouble}", facts.node)
        for xid in facts.xids:
            yield Finding("gpus", f"{xid} within a day", facts.node)
    free, least = facts.memory_free_gb, health.memory_free_gb
    if free is not None and least is not None and free < least:
        yield Finding("memory", f"{free:.3g} GB of memory are free of {least:g}", facts.node)
    if facts.tmp_free_gb < health.tmp_free_gb:
        says = f"{facts.tmp_free_gb:.2g} GB are free for temporary files of {health.tmp_free_gb:g}"
        yield Finding("disk", says, facts.node)


def _of_gpu(gpu: Gpu, health: Health) -> Iterable[str]:
    yield from gpu.troubles
    if health.gpu and gpu.name and health.gpu.lower() not in gpu.name.lower():
        yield f"is a {gpu.name}, not a {health.gpu}"
    free, total = gpu.memory_free_mib, gpu.memory_mib
    if free is not None and total is not None and free < health.gpu_memory_free * total:
        yield f"{free} of {total} MiB are free"


def _results(facts: Iterable[Facts], health: Health) -> list[Finding]:
    """Results lie on a file system that all nodes share, and so no node is at fault."""
    free = min((one.results_free_gb for one in facts), default=health.results_free_gb)
    if free >= health.results_free_gb:
        return []
    return [Finding("disk", f"{free:.2g} GB are free for results of {health.results_free_gb:g}")]


def _unlike(facts: Mapping[str, Facts]) -> list[Finding]:
    """Nodes whose cards differ from those of most nodes in kind, power limit or clock."""
    found = []
    for what, value in (
        ("are", lambda gpu: gpu.name),
        ("may draw, in W,", lambda gpu: gpu.power_limit_watts),
        ("may clock, in MHz,", lambda gpu: gpu.max_sm_mhz),
    ):
        told = {
            node: kinds
            for node, one in facts.items()
            if one.cards and (kinds := frozenset(map(value, one.cards.gpus)) - {None})
        }
        found += [
            Finding("gpus", f"its GPUs {what} {_words(kinds)}, those of most nodes {_words(usual)}", node)
            if usual
            else Finding("gpus", f"the GPUs of {node} {what} {_words(kinds)}, and others differ")
            for node, kinds, usual in _odd(told)
        ]
    return found


def _odd(told: Mapping[str, frozenset[Any]]) -> list[tuple[str, frozenset[Any], frozenset[Any] | None]]:
    """Who differs from what more than half say; from None where no such majority is."""
    counts = Counter(told.values()).most_common(1)
    if not counts or counts[0][1] == len(told):
        return []
    usual = counts[0][0] if 2 * counts[0][1] > len(told) else None
    return [(node, kinds, usual) for node, kinds in told.items() if kinds != usual]


def _words(kinds: frozenset[Any]) -> str:
    return " and ".join(sorted(f"{kind:g}" if isinstance(kind, int | float) else kind for kind in kinds))


def judge_inside(by_node: Mapping[str, float], health: Health) -> list[Finding]:
    """Nodes whose ranks gather more slowly inside the node than the profile expects, in Gbit/s."""
    expected = health.inside_node_gbit_s
    return [
        Finding("inside", f"gathers at {rate:.3g} Gbit/s inside, {expected:g} expected", node)
        for node, rate in by_node.items()
        if expected is not None and rate < health.least(expected)
    ]


def judge_together(
    rows: Iterable[Mapping[str, Any]], ranks_per_node: int, health: Health, expected: float | None
) -> list[Finding]:
    """What nodes send when all gather at once, by the rows of the network baseline; no node's fault alone.

    In a ring every node sends at the bus bandwidth, once for each of its ranks. `expected` in Gbit/s.
    """
    between = [row["bus_gbit_s"] for row in rows if row["scope"] == "between nodes"]
    sent = max(between, default=0.0) * ranks_per_node
    if expected is None or not between or sent >= health.least(expected):
        return []
    says = f"in an all-gather each node sends at {sent:.3g} Gbit/s, {expected:g} expected"
    return [Finding("links", f"{says}, though each alone is fast enough")]
