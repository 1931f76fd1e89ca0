"""Byte footprints of strided views, against enumeration."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.race.memory import Footprint, Written, covers, footprint, overlap

View = tuple[int, tuple[int, ...], tuple[int, ...], int]


@st.composite
def views(draw: st.DrawFn) -> View:
    sizes = draw(st.lists(st.integers(0, 5), max_size=3).map(tuple))
    strides = tuple(draw(st.integers(0, 12)) for _ in sizes)
    return draw(st.integers(0, 20)), sizes, strides, draw(st.sampled_from([1, 2, 4]))


def bytes_of(view: View) -> set[int]:
    offset, sizes, strides, itemsize = view
    elements = {offset}
    for size, stride in zip(sizes, strides, strict=True):
        elements = {base + index * stride for base in elements for index in range(size)}
    return {element * itemsize + byte for element in elements for byte in range(itemsize)}


@given(views())
def test_a_footprint_is_exactly_the_bytes_of_the_view(view: View) -> None:
    found = footprint(*view)
    covered = {byte for low, high in found.runs() for byte in range(low, high)} if found else set()
    assert covered == bytes_of(view)
    assert found is None or found.end == max(covered) + 1


@given(views(), views())
def test_two_views_overlap_exactly_where_they_share_a_byte(one: View, other: View) -> None:
    first, second = footprint(*one), footprint(*other)
    if first and second:
        assert overlap(first, second) == overlap(second, first) == bool(bytes_of(one) & bytes_of(other))


@given(views(), views())
def test_a_view_that_covers_another_has_all_its_bytes(one: View, other: View) -> None:
    first, second = footprint(*one), footprint(*other)
    if first and second and covers(first, second):
        assert bytes_of(other) <= bytes_of(one)


@given(st.lists(views(), max_size=5), views())
def test_what_was_never_written_is_found_and_lies_in_the_view(writes: list[View], read: View) -> None:
    written, wanted = Written(10**6), footprint(*read)
    for view in writes:
        if found := footprint(*view):
            written.add(found)
    if wanted is None:
        return
    unwritten = bytes_of(read) - set().union(*map(bytes_of, writes))
    gap = written.missing(wanted)
    assert (gap is None) == (not unwritten)
    assert gap is None or set(range(*gap)) <= unwritten


def test_two_columns_of_a_matrix_do_not_conflict() -> None:
    left, right = footprint(0, (1000,), (2,), 4), footprint(1, (1000,), (2,), 4)
    assert left and right and not overlap(left, right)


def test_a_column_and_a_row_of_a_matrix_meet_in_one_element() -> None:
    column, row = footprint(3, (100,), (100,), 4), footprint(5000, (100,), (1,), 4)
    assert column and row and overlap(column, row)


def test_odd_and_even_tiles_of_a_large_tensor_do_not_conflict() -> None:
    odd, even = footprint(0, (64, 64, 8), (4096, 32, 2), 2), footprint(1, (64, 64, 8), (4096, 32, 2), 2)
    assert odd and even and not overlap(odd, even)


def test_a_dense_view_of_any_shape_is_one_run() -> None:
    assert footprint(4, (3, 1, 5), (5, 7, 1), 2) == Footprint(8, 30)


def test_an_expanded_view_touches_its_elements_once() -> None:
    assert footprint(0, (1000, 4), (0, 1), 4) == Footprint(0, 16)


def test_a_storage_written_in_pieces_is_written_whole() -> None:
    written = Written(16)
    for start in (8, 0, 12, 4):
        assert written.missing(Footprint(0, 16)) is not None
        written.add(Footprint(start, 4))
    assert written.full


@given(st.lists(views(), max_size=5), views())
def test_the_gaps_of_a_view_are_its_unwritten_bytes_in_order(writes: list[View], read: View) -> None:
    written, wanted = Written(10**6), footprint(*read)
    for view in writes:
        if found := footprint(*view):
            written.add(found)
    if wanted is None:
        return
    own = [byte for low, high in wanted.runs() for byte in range(low, high)]
    unwritten = [at for at, byte in enumerate(own) if byte not in set().union(*map(bytes_of, writes))]
    assert [at for low, high in written.gaps(wanted) for at in range(low, high)] == unwritten


@given(views(), st.integers(0, 30), st.integers(0, 30))
def test_a_part_of_a_view_is_its_bytes_in_order(view: View, low: int, high: int) -> None:
    if found := footprint(*view):
        own = [byte for start, end in found.runs() for byte in range(start, end)]
        assert [byte for start, end in found.part(low, high) for byte in range(start, end)] == own[low:high]


def test_bytes_that_are_unwritten_after_all_are_missing() -> None:
    written = Written(16, full=True)
    written.remove(4, 8)
    assert written.missing(Footprint(0, 4)) is None
    assert written.missing(Footprint(0, 16)) == (4, 8)
    written.add(Footprint(4, 4))
    assert written.full
