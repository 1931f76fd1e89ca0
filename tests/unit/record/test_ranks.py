"""Which rank is slow, and when that is only noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.record.ranks import (
    Window,
    median_interval,
    others_medians,
    paces,
    read_windows,
    slow_ranks,
)

NODES = ("n0", "n0", "n1", "n1")


def windows(
    own: Sequence[float], count: int = 20, noise: float = 0.05, nodes: Sequence[str] = NODES, seed: int = 0
) -> list[Window]:
    """Windows in which ranks compute for these seconds a step, and all wait for the slowest."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        mine = tuple(float(one * random.lognormal(0, noise)) for one in own)
        found.append(
            Window(10 * number, 10 * number + 10, tuple(nodes), (max(mine) + 0.01,) * len(own), mine)
        )
    return found


def said(found: Sequence[Window], **options: int) -> list[str]:
    return [slow.short for slow in slow_ranks(paces(found, **options))]


def test_a_slow_rank_is_named_with_its_node() -> None:
    (slow,) = slow_ranks(paces(windows([0.1, 0.1, 0.1, 0.14])))
    assert (slow.node, slow.ranks, slow.whole_node) == ("n1", (3,), False)
    assert slow.ratio == pytest.approx(1.4, rel=0.05) and slow.excess_seconds == pytest.approx(0.04, rel=0.1)
    assert slow.sentence.startswith("rank 3 on n1: 4") and "longer than the others" in slow.sentence


def test_a_node_whose_ranks_are_all_slow_is_named_as_one() -> None:
    own = [0.1] * 4 + [0.13] * 2
    (slow,) = slow_ranks(paces(windows(own, nodes=["n0", "n0", "n1", "n1", "n2", "n2"])))
    assert slow.whole_node and slow.sentence.startswith("node n2 (ranks 4 to 5): ")


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_names_nobody(seed: int) -> None:
    assert said(windows([0.1] * 4, noise=0.3, seed=seed)) == []


def test_what_is_slow_and_takes_next_to_nothing_names_nobody() -> None:
    idle = [
        Window(w.from_step, w.until_step, w.nodes, (1.0,) * 4, w.own_seconds)
        for w in windows([0.001, 0.001, 0.001, 0.002])
    ]
    assert said(idle) == []


def test_too_few_windows_name_nobody() -> None:
    assert said(windows([0.1, 0.1, 0.1, 0.2], count=4)) == []
    assert [pace.low for pace in paces(windows([0.1, 0.1, 0.1, 0.2], count=4))] == [None] * 4


def test_the_warm_up_does_not_count() -> None:
    start = windows([9.0, 0.1, 0.1, 0.1], count=2, noise=0)
    later = [w for w in windows([0.1, 0.1, 0.1, 0.1], noise=0.01) if w.from_step >= 20]
    (first, *_) = paces([*start, *later], warmup=20)
    assert first.own_seconds == pytest.approx(0.1, rel=0.05)


def test_only_the_nodes_of_the_last_allocation_count() -> None:
    before = windows([0.1, 0.1, 0.1, 0.2], nodes=["n0", "n0", "n7", "n7"])
    assert said([*before, *windows([0.1] * 4)]) == []


def test_a_rank_alone_waits_for_nobody() -> None:
    assert paces(windows([0.1], nodes=["n0"])) == [] and paces([]) == []


@pytest.mark.parametrize(
    "values", [[1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 1.0, 2.0], [4.0, 3.0, 2.0, 1.0, 0.0]]
)
def test_the_median_of_the_others_is_that_of_the_others(values: list[float]) -> None:
    expected = [float(np.median(np.delete(values, index))) for index in range(len(values))]
    assert others_medians(values) == expected


def test_the_interval_of_a_median_is_the_textbooks() -> None:
    # n = 10: the 2nd and 9th value hold the median with 97.9 %, the 3rd and 8th with 89.1 %.
    values = [float(value) for value in range(1, 11)]
    assert median_interval(values, 0.95) == (2.0, 9.0)
    assert median_interval(values, 0.89) == (3.0, 8.0)
    assert median_interval(values[:5], 0.95) == (None, None)


def test_windows_are_read_back_and_half_a_line_is_passed_over(tmp_path: Path) -> None:
    file, written = tmp_path / "ranks.jsonl", windows([0.1] * 4, count=3)
    file.write_text("".join(one.line() for one in written) + written[0].line()[:30])
    assert read_windows(file) == written and read_windows(file, tail=True) == written
    assert read_windows(tmp_path / "missing.jsonl") == []
