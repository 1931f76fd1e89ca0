"""An epoch's order is a permutation of its sequences that needs no memory."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from harness.corpus import permuted


@given(size=st.integers(1, 2000), seed=st.integers(0, 2**63), epoch=st.integers(0, 1000))
def test_every_sequence_comes_once_in_an_epoch(size: int, seed: int, epoch: int) -> None:
    assert sorted(permuted(place, size, seed, epoch) for place in range(size)) == list(range(size))


@given(size=st.integers(10**6, 2**50), start=st.integers(0, 10**5), seed=st.integers(0, 100))
def test_a_corpus_of_any_size_is_permuted_without_a_table(size: int, start: int, seed: int) -> None:
    found = [permuted(start + place, size, seed, 0) for place in range(200)]
    assert len(set(found)) == 200 and all(0 <= place < size for place in found)


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = {
        tuple(permuted(place, 50, seed, epoch) for place in range(50))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_neighbours_do_not_stay_together() -> None:
    size = 20_000
    order = [permuted(place, size, 7, 0) for place in range(size)]
    near = sum(abs(one - other) < 100 for one, other in pairwise(order))
    assert near < 300, "chance has it that 200 of 20,000 do"
    assert abs(sum(order[: size // 2]) / (size // 2) / size - 0.5) < 0.01
