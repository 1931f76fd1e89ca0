"""Memory that nothing wrote: to carry it about is no use of it, to compute with it is."""

from __future__ import annotations

from harness.race.happens_before import Analysis
from harness.race.memory import Footprint

SOURCE, TARGET, OTHER = 0, 1, 2


def started(*sizes: int) -> Analysis:
    analysis = Analysis(namer=lambda storage, view: f"storage {storage}")
    for storage, nbytes in enumerate(sizes):
        analysis.alloc(storage, nbytes, stream=0)
    return analysis


def whole(storage: int, nbytes: int) -> tuple[int, Footprint]:
    return storage, Footprint(0, nbytes)


def found(analysis: Analysis) -> list[tuple[str, str, int, int]]:
    """Of each finding the op that first read, the op that computed, and the bytes of the memory first read."""
    return [(f.first.op, f.second.op, f.first.low, f.first.high) for f in analysis.findings.values()]


def test_what_is_copied_unwritten_and_overwritten_before_any_use_is_nobodys_fault() -> None:
    analysis = started(8, 4)
    analysis.op(0, "_to_copy", 0, [whole(SOURCE, 8)], [whole(TARGET, 4)], (("line", 1),))
    analysis.op(1, "fill_", 0, [], [whole(TARGET, 4)])
    analysis.op(2, "add", 0, [whole(TARGET, 4)], [])
    assert found(analysis) == []


def test_who_computes_with_a_copy_of_unwritten_memory_is_told_of_the_first_read() -> None:
    analysis = started(8, 4, 4)
    analysis.op(0, "fill_", 0, [], [(SOURCE, Footprint(0, 6))])
    analysis.op(1, "_to_copy", 0, [whole(SOURCE, 8)], [whole(TARGET, 4)], (("line", 1),))
    analysis.op(2, "copy_", 0, [whole(TARGET, 4)], [whole(OTHER, 4)], (("line", 2),))
    analysis.op(3, "mul", 0, [(OTHER, Footprint(0, 3))], [])
    assert found(analysis) == []
    analysis.op(4, "add", 0, [whole(OTHER, 4)], [], (("line", 4),))
    assert found(analysis) == [("_to_copy", "add", 6, 8)]
    (finding,) = analysis.findings.values()
    assert finding.names == {"storage 0": 1}
    analysis.op(5, "sub", 0, [whole(OTHER, 4)], [], (("line", 5),))
    assert len(found(analysis)) == 1  # the first use stands for all


def test_a_concatenation_is_unwritten_where_its_part_was() -> None:
    analysis = started(4, 4, 8)
    analysis.op(0, "fill_", 0, [], [whole(SOURCE, 4)])
    analysis.op(1, "cat", 0, [whole(SOURCE, 4), whole(TARGET, 4)], [whole(OTHER, 8)])
    analysis.op(2, "add", 0, [(OTHER, Footprint(0, 4))], [])
    assert found(analysis) == []
    analysis.op(3, "add", 0, [(OTHER, Footprint(4, 4))], [])
    assert found(analysis) == [("cat", "add", 0, 4)]


def test_of_a_strided_view_the_copy_is_unwritten_where_the_view_was() -> None:
    columns = Footprint(0, 2, ((3, 4),))  # the first two bytes of each row of four
    analysis = started(12, 6)
    analysis.op(0, "fill_", 0, [], [(SOURCE, Footprint(0, 4))])  # the first row
    analysis.op(1, "clone", 0, [(SOURCE, columns)], [whole(TARGET, 6)])
    analysis.op(2, "add", 0, [(TARGET, Footprint(0, 2))], [])
    assert found(analysis) == []
    analysis.op(3, "add", 0, [(TARGET, Footprint(2, 2))], [])
    assert found(analysis) == [("clone", "add", 4, 6)]


def test_an_all_gather_carries_to_this_ranks_place() -> None:
    analysis = started(4, 8)
    analysis.op(0, "all_gather", 1, [whole(SOURCE, 4)], [whole(TARGET, 8)], place=1)
    analysis.op(1, "add", 1, [(TARGET, Footprint(0, 4))], [])
    assert found(analysis) == []
    analysis.op(2, "add", 1, [whole(TARGET, 8)], [])
    assert found(analysis) == [("all_gather", "add", 0, 4)]


def test_what_goes_to_other_ranks_alone_or_to_the_host_counts_as_used() -> None:
    for name in ("all_to_all", "send_recv", "_to_copy"):
        analysis = started(4)
        analysis.op(0, name, 0, [whole(SOURCE, 4)], [])
        assert found(analysis) == [(name, name, 0, 4)]


def test_a_message_of_fixed_size_behind_its_header_is_no_use_of_the_rest() -> None:
    analysis = started(1024)
    analysis.op(0, "copy_", 0, [], [(SOURCE, Footprint(0, 20))])
    analysis.op(1, "send_recv", 0, [whole(SOURCE, 1024)], [])
    assert found(analysis) == []
    analysis.op(2, "send_recv", 0, [(SOURCE, Footprint(20, 4))], [])
    assert found(analysis) == [("send_recv", "send_recv", 20, 24)]


def test_the_padding_of_a_buffer_may_be_scaled_and_reduced_as_long_as_nobody_wants_it() -> None:
    analysis = started(8, 4)
    analysis.op(0, "fill_", 0, [], [(SOURCE, Footprint(0, 6))])
    analysis.op(1, "div_", 0, [whole(SOURCE, 8)], [whole(SOURCE, 8)], (("line", 1),), pointwise=True)
    analysis.op(2, "reduce_scatter", 0, [whole(SOURCE, 8)], [whole(TARGET, 4)], place=1)
    analysis.op(3, "sum", 0, [(TARGET, Footprint(0, 2))], [])
    assert found(analysis) == []
    analysis.op(4, "sum", 0, [whole(TARGET, 4)], [])
    assert found(analysis) == [("div_", "div_", 6, 8)]


def test_an_op_that_spreads_or_compares_elements_uses_them() -> None:
    analysis = started(4, 8)
    analysis.op(0, "add", 0, [whole(SOURCE, 4)], [whole(TARGET, 8)], pointwise=True)
    assert found(analysis) == [("add", "add", 0, 4)]


def test_to_write_a_part_that_only_the_data_says_is_no_use_of_the_rest() -> None:
    analysis = started(8)
    analysis.op(0, "index_copy_", 0, [whole(SOURCE, 8)], [whole(SOURCE, 8)])
    analysis.op(1, "add", 0, [whole(SOURCE, 8)], [])
    assert found(analysis) == []
