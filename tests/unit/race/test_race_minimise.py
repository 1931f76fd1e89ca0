"""Schedules are shrunk to what matters."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from harness.race.minimise import minimise


@given(st.integers(2, 40), st.sets(st.integers(0, 39), min_size=1, max_size=3))
def test_exactly_the_decisions_that_matter_are_left(size: int, needed: set[int]) -> None:
    needed = {decision % size for decision in needed}
    found = minimise(range(size), lambda kept: needed <= set(kept), budget=10_000)
    assert found == sorted(needed)


def test_the_budget_bounds_the_tries_and_the_result_still_fails() -> None:
    tries: list[Sequence[int]] = []

    def fails(kept: Sequence[int]) -> bool:
        tries.append(kept)
        return {3, 90} <= set(kept)

    found = minimise(range(100), fails, budget=5)
    assert len(tries) == 5
    assert {3, 90} <= set(found)


def test_one_decision_needs_no_try() -> None:
    assert minimise(["only"], lambda kept: False) == ["only"]
