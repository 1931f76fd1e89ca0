"""The timeline against a longest-path computation on the same graph, and what must hold for any program."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.simulate.costs import costs
from harness.simulate.engine import simulate
from harness.simulate.timeline import covered
from harness.simulate.trace import Kind, Row, Secondary, Trace
from tests.simulated_help import (
    A100,
    CONTENDED,
    STREAMS,
    gather,
    longest_path,
    op,
    program,
    record,
    sync,
    wait,
    with_changes,
)

stream_ids, event_ids = st.integers(0, STREAMS - 1), st.integers(0, 5)
rows = st.one_of(
    st.builds(op, stream_ids, st.floats(0.01, 3)),
    st.builds(
        lambda stream, size: Row(Kind.OP, stream=stream, name=0, read=size), stream_ids, st.integers(0, 10**9)
    ),
    st.builds(gather, stream_ids, st.integers(1, 10**8), st.integers(0, 1)),
    st.builds(record, event_ids, stream_ids),
    st.builds(wait, event_ids, stream_ids),
    st.builds(sync, stream_ids),
    st.builds(lambda event: Row(Kind.SYNC_EVENT, event=event, site=0), event_ids),
    st.just(Row(Kind.SYNC_ALL, site=0)),
)
programs = st.lists(rows, min_size=1, max_size=40).map(program)


@settings(max_examples=120, deadline=None)
@given(programs)
def test_without_contention_the_timeline_is_the_longest_path(trace: Trace) -> None:
    timeline, times = simulate(trace, A100, repeat=1), longest_path(trace, A100)
    for index in range(len(trace)):
        assert timeline.host_end[index] == pytest.approx(times["host", index], abs=1e-12)
        if ("end", index) in times:
            assert timeline.start[index] == pytest.approx(times["start", index], abs=1e-12)
            assert timeline.end[index] == pytest.approx(times["end", index], abs=1e-12)
    assert timeline.seconds == pytest.approx(max(times.values()), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    programs,
    st.sampled_from(
        [
            ("network", "bits_per_second"),
            ("gpu", "nvlink_bandwidth"),
            ("gpu", "memory_bandwidth"),
            ("gpu", "half_flops"),
        ]
    ),
    st.floats(1.0, 20.0),
)
def test_more_bandwidth_is_never_slower(trace: Trace, what: tuple[str, str], factor: float) -> None:
    part, key = what
    faster = with_changes(part, **{key: getattr(getattr(A100, part), key) * factor})
    assert simulate(trace, faster).seconds <= simulate(trace, A100).seconds + 1e-12


@settings(max_examples=40, deadline=None)
@given(programs, st.data())
def test_removing_a_wait_is_never_slower(trace: Trace, data: st.DataObject) -> None:
    waits = [
        i
        for i, row in enumerate(trace.rows())
        if row.kind in (Kind.WAIT, Kind.SYNC, Kind.SYNC_EVENT, Kind.SYNC_ALL)
    ]
    if not waits:
        return
    gone = data.draw(st.sampled_from(waits))
    fewer = program([row for i, row in enumerate(trace.rows()) if i != gone])
    if len(fewer):
        assert simulate(fewer, A100, repeat=1).seconds <= simulate(trace, A100, repeat=1).seconds + 1e-12


@settings(max_examples=40, deadline=None)
@given(programs)
def test_contention_never_speeds_a_program_up(trace: Trace) -> None:
    assert simulate(trace, CONTENDED, repeat=1).seconds >= simulate(trace, A100, repeat=1).seconds - 1e-9


@settings(max_examples=40, deadline=None)
@given(programs, st.booleans())
def test_the_critical_path_accounts_for_the_whole_step(trace: Trace, contention: bool) -> None:
    timeline = simulate(trace, A100.model_copy(update={"contention": contention}))
    assert sum(timeline.limits.values()) == pytest.approx(timeline.seconds, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(programs)
def test_every_piece_of_work_runs_once_and_in_the_order_of_its_stream(trace: Trace) -> None:
    timeline = simulate(trace, CONTENDED)
    for stream in range(STREAMS):
        mine = (trace.columns["stream"] == stream) & (trace.columns["kind"] <= Kind.COLLECTIVE)
        start, end = timeline.start[mine], timeline.end[mine]
        assert np.isfinite(end).all()
        assert (start[1:] >= end[:-1]).all()


def test_two_transfers_on_one_nic_take_as_long_as_their_bytes_need() -> None:
    both = program([gather(1), gather(2), Row(Kind.SYNC_ALL, site=0)])
    alone = program([gather(1), Row(Kind.SYNC_ALL, site=0)])
    ratio = simulate(both, CONTENDED, repeat=1).seconds / simulate(alone, CONTENDED, repeat=1).seconds
    assert ratio == pytest.approx(2.0, rel=0.05)
    assert simulate(both, A100, repeat=1).seconds < 1.1 * simulate(alone, A100, repeat=1).seconds


def test_under_contention_one_wait_less_may_be_slower() -> None:
    """Graham's anomaly: the unhurried gather starts earlier and takes the NIC from the one that matters."""
    hurried = [gather(1), record(2, stream=1), wait(2, stream=0), op(0, milliseconds=30)]
    ordered = [
        record(1, stream=0),
        *hurried[:2],
        wait(2, stream=2),
        gather(2),
        *hurried[2:],
        Row(Kind.SYNC_ALL, site=0),
    ]
    free = [row for row in ordered if (row.kind, row.stream) != (Kind.WAIT, 2)]
    assert (
        simulate(program(free), CONTENDED, repeat=1).seconds
        > simulate(program(ordered), CONTENDED, repeat=1).seconds
    )


def test_a_host_wait_blocks_and_is_charged_to_its_line() -> None:
    timeline = simulate(program([op(milliseconds=5), sync(), op(milliseconds=1)]), A100, repeat=1)
    times, seconds = timeline.blocked_by_site()["a.py:1 f (stream)"]
    assert times == 1
    assert seconds == pytest.approx(5e-3, rel=0.01)
    assert timeline.host_blocked == seconds


def test_without_streams_the_host_computes_and_waits_itself() -> None:
    cpu = A100.model_copy(update={"streams": False})
    rows = [op(milliseconds=5), gather(2), record(1, stream=2), wait(1, stream=0), op(milliseconds=5)]
    trace = program(rows)
    wire = costs(trace, cpu).solo[1]
    timeline = simulate(trace, cpu, repeat=1)
    assert timeline.host_blocked == pytest.approx(wire, rel=1e-2)
    assert timeline.seconds == pytest.approx(10e-3 + wire, rel=0.05)
    hidden = program([*rows[:2], op(milliseconds=2e3 * wire), *rows[2:]])
    assert simulate(hidden, cpu, repeat=1).host_blocked == pytest.approx(0.0, abs=1e-9)


def test_margin_is_negative_where_the_gather_overtakes_the_copy() -> None:
    copy, read = op(0, milliseconds=5), gather(2)
    late = simulate(program([copy, read], (Secondary("weight", 0, 1),)), A100, repeat=1)
    ordered = simulate(
        program([copy, record(1), wait(1), read], (Secondary("weight", 0, 3),)), A100, repeat=1
    )
    assert late.margins()["weight"] == pytest.approx(A100.host.collective_seconds - 5e-3, rel=0.02)
    assert ordered.margins()["weight"] >= 0.0


def test_communication_counts_as_exposed_only_while_no_kernel_runs() -> None:
    wire = costs(program([gather()]), A100).solo[0]
    hidden = simulate(program([op(milliseconds=1e3 * wire + 1), gather()]), A100, repeat=1)
    bare = simulate(program([gather()]), A100, repeat=1)
    assert hidden.exposed() == pytest.approx(0.0, abs=1e-9)
    assert bare.exposed() == pytest.approx(wire, rel=1e-6)


def test_memory_that_a_stream_still_uses_makes_the_host_wait_when_the_gpu_is_full() -> None:
    size = 60 * 10**9
    rows = [
        Row(Kind.ALLOC, stream=0, storage=1, payload=size),
        gather(2),
        Row(Kind.KEEP, stream=2, storage=1),
        Row(Kind.FREE, storage=1, payload=size),
        Row(Kind.ALLOC, stream=0, storage=2, payload=size),
        op(0, milliseconds=2),
        Row(Kind.FREE, storage=2, payload=size),
    ]
    timeline = simulate(program(rows), A100, repeat=1)
    assert timeline.memory_wait == pytest.approx(costs(program(rows), A100).solo[1], rel=0.01)
    assert timeline.fits
    assert timeline.limits["memory"] == pytest.approx(timeline.memory_wait)
    assert timeline.limits["compute"] == pytest.approx(2e-3)


def test_what_does_not_fit_is_said() -> None:
    rows = [Row(Kind.ALLOC, stream=0, storage=1, payload=90 * 10**9)]
    timeline = simulate(program(rows), A100, repeat=1)
    assert not timeline.fits
    assert timeline.peak_bytes == 90 * 10**9


def test_repeated_steps_of_a_free_running_program_overlap() -> None:
    trace = program([op(0, milliseconds=2), gather(2, payload=10**7)])
    once, steady = simulate(trace, A100, repeat=1), simulate(trace, A100, repeat=3)
    assert steady.seconds <= once.seconds


@pytest.mark.parametrize(
    ("intervals", "length"),
    [([], 0.0), ([(0, 1)], 1.0), ([(0, 2), (1, 3)], 3.0), ([(0, 1), (2, 3)], 2.0), ([(0, 5), (1, 2)], 5.0)],
)
def test_covered_is_the_length_of_the_union(intervals: list[tuple[float, float]], length: float) -> None:
    start, end = np.array([a for a, _ in intervals], float), np.array([b for _, b in intervals], float)
    assert covered(start, end) == length
