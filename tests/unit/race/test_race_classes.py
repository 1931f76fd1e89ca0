"""Classes of schedules are counted exactly, for programs whose number is known."""

from __future__ import annotations

from math import comb

import pytest

from harness.race.classes import classes
from harness.race.searched import bound


def chain(*ops: int) -> dict[int, frozenset[int]]:
    """Ops of one stream: each comes after those before it."""
    return {op: frozenset(ops[:place]) for place, op in enumerate(ops)}


def test_one_unordered_pair_has_two_classes_the_order_of_issue_first() -> None:
    found, all_of_them = classes([(0, 1)], {}, 10)
    assert [one.swapped for one in found] == [(), ((0, 1),)]
    assert all_of_them


def test_a_read_beside_three_writes_of_one_stream_has_four() -> None:
    found, _ = classes([(0, 3), (1, 3), (2, 3)], chain(0, 1, 2), 100)
    assert len(found) == 4


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_two_streams_that_conflict_in_every_op_have_all_their_interleavings(length: int) -> None:
    one, other = range(length), range(length, 2 * length)
    pairs = [(a, b) for a in one for b in other]
    found, _ = classes(pairs, chain(*one) | chain(*other), 1000)
    assert len(found) == comb(2 * length, length)


def test_independent_pairs_multiply() -> None:
    found, _ = classes([(0, 1), (2, 3), (4, 5)], {}, 100)
    assert len(found) == 8


def test_what_is_ordered_across_streams_rules_classes_out() -> None:
    # 0 → 2 and 1 → 3 by events; 1 before 0 and 2 before 3 are free.
    before = {2: frozenset({0}), 3: frozenset({1, 0, 2})}
    found, _ = classes([(0, 1), (2, 3)], before, 100)
    assert len(found) == 2


def test_more_classes_than_the_limit_are_not_counted_on() -> None:
    found, all_of_them = classes([(2 * n, 2 * n + 1) for n in range(10)], {}, 100)
    assert len(found) == 100
    assert not all_of_them


def test_the_bound_is_that_of_the_paper() -> None:
    # 2 streams and the host are 3 threads; 50 ops are 100 steps.
    assert bound(ops=50, streams=2, depth=2, schedules=1) == pytest.approx(1 / 300)
    assert bound(ops=50, streams=2, depth=2, schedules=300) == pytest.approx(0.633, abs=0.002)
    assert bound(ops=50, streams=2, depth=1, schedules=3) == pytest.approx(1 - (2 / 3) ** 3)
