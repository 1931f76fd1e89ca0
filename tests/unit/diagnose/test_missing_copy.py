"""What the old copy never writes, checked against known counts and against its own invariants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.diagnose import missing_in_model, new_copy_raises, old_copy
from harness.diagnose.missing_copy import unwritten_elements
from harness.system.errors import HarnessError


@pytest.mark.parametrize(
    ("world", "hpz", "count"), [(4, 2, 300), (8, 2, 350), (8, 4, 350), (16, 2, 375), (16, 8, 375)]
)
def test_how_many_of_the_first_400_sizes_lose_elements(world: int, hpz: int, count: int) -> None:
    assert (unwritten_elements(range(1, 401), world, hpz) > 0).sum() == count


def test_1001_elements_over_four_ranks_in_pairs() -> None:
    slices = old_copy(1001, world=4, hpz=2)
    assert list(slices.unwritten) == [0, 499, 0, 3]
    assert slices.ranges() == [(502, 502), (502, 1001), (502, 502), (998, 1001)]


SHAPES = st.integers(1, 8).flatmap(lambda groups: st.integers(1, 8).map(lambda hpz: (groups * hpz, hpz)))


@given(st.integers(1, 5000), SHAPES)
def test_nothing_is_lost_exactly_where_sizes_divide_or_one_group_holds_all(
    numel: int, shape: tuple[int, int]
) -> None:
    world, hpz = shape
    lost = bool(old_copy(numel, world, hpz).unwritten.any())
    assert lost == (numel % world != 0 and hpz != world)


@given(st.integers(1, 5000), SHAPES)
def test_a_group_holds_each_element_once(numel: int, shape: tuple[int, int]) -> None:
    world, hpz = shape
    slices = old_copy(numel, world, hpz)
    assert (slices.valid.reshape(-1, hpz).sum(axis=1) == numel).all()
    assert (slices.unwritten >= 0).all()


def test_three_nodes_of_eight_lose_a_twelfth() -> None:
    missing = missing_in_model([4096 * 4096, 4096 * 11008, 4096], world=24, hpz=8)
    assert missing.parameters == 3
    assert missing.share == pytest.approx(1 / 12, abs=1e-3)


def test_two_nodes_of_eight_lose_nothing() -> None:
    assert missing_in_model([4096 * 4096, 4096], world=16, hpz=8).elements == 0


def test_new_copy_fails_where_a_slice_begins_beyond_the_end() -> None:
    assert new_copy_raises(1, world=8, hpz=8)
    assert not new_copy_raises(4096, world=8, hpz=8)


def test_group_that_does_not_divide_the_world_is_refused() -> None:
    with pytest.raises(HarnessError, match="zero_hpz_partition_size=3 must divide the world size 8"):
        unwritten_elements([10], 8, 3)


def test_empty_parameter_is_refused() -> None:
    with pytest.raises(HarnessError, match="a parameter of 0 elements cannot be partitioned"):
        old_copy(0, 4, 2)
