"""The analysis against all legal schedules of small random stream programs, and its single rules."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.race.clocks import EVENTS_KEPT
from harness.race.findings import HOST
from harness.race.happens_before import Analysis
from harness.race.memory import Footprint, footprint

Kind = Literal["op", "record", "wait", "sync", "sync-event", "sync-device", "record-stream", "free"]
STREAMS, EVENTS, STORAGES = 3, 2, 2


FIRST_BYTE = Footprint(0, 1)


@dataclass(frozen=True)
class Action:
    """One thing that the host does; `stream` HOST: the access is the host's own."""

    kind: Kind
    stream: int = 0
    event: int = 0
    storage: int = 0
    view: Footprint = FIRST_BYTE
    write: bool = False


def accesses(streams: st.SearchStrategy[int]) -> st.SearchStrategy[Action]:
    view = st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 3))
    return st.builds(
        lambda stream, storage, shape, write: Action(
            "op", stream, storage=storage, view=footprint(shape[0], (shape[1],), (shape[2],), 1), write=write
        ),
        streams,
        st.integers(0, STORAGES - 1),
        view,
        st.booleans(),
    )


STREAM, EVENT = st.integers(0, STREAMS - 1), st.integers(0, EVENTS - 1)
ACTIONS = st.one_of(
    accesses(STREAM),
    accesses(STREAM),
    accesses(st.just(HOST)),
    st.builds(Action, st.just("record"), STREAM, EVENT),
    st.builds(Action, st.just("wait"), STREAM, EVENT),
    st.builds(Action, st.just("sync"), STREAM),
    st.builds(Action, st.just("sync-event"), st.just(0), EVENT),
    st.builds(Action, st.just("sync-device")),
)
PROGRAMS = st.lists(ACTIONS, min_size=2, max_size=10)


def analyse(program: list[Action], history: int = 10_000) -> Analysis:
    analysis = Analysis(history=history)
    for storage in range(STORAGES):
        analysis.alloc(storage, 8, stream=0, written=True)
    for index, action in enumerate(program):
        access, site = [(action.storage, action.view)], (("line", index),)
        match action.kind:
            case "op" if action.write:
                analysis.op(index, "write", action.stream, [], access, site)
            case "op":
                analysis.op(index, "read", action.stream, access, [], site)
            case "record":
                analysis.record(action.event, action.stream)
            case "wait":
                analysis.stream_wait(action.stream, action.event)
            case "sync":
                analysis.host_wait_stream(action.stream, "sync")
            case "sync-event":
                analysis.host_wait_event(action.event, "sync")
            case "sync-device":
                analysis.host_wait_device("sync")
            case "free":
                analysis.next_index = index
                analysis.free(action.storage)
    return analysis


def races_found(program: list[Action], history: int = 10_000) -> set[tuple[int, int]]:
    findings = analyse(program, history).findings.values()
    return {case[:2] for finding in findings for case in finding.cases}


def orders(program: list[Action]) -> set[tuple[int, int]]:
    """All (p, q) such that some legal schedule runs access p before access q. Knows nothing of clocks."""
    seen: set[tuple[int, int]] = set()
    start = (0, (), (0,) * STREAMS)
    states, todo = {start}, [start]
    while todo:
        for run, state in steps(program, todo.pop()):
            if run is not None:
                seen |= {(before, run) for before in state[1] if before != run}
            if state not in states:
                states.add(state)
                todo.append(state)
    return seen


State = tuple[int, tuple[int, ...], tuple[int, ...]]  # next host action, what has run, how far each stream is


def steps(program: list[Action], state: State) -> list[tuple[int | None, State]]:
    """What may happen next: the host goes on, or some stream runs its next entry."""
    at, done, heads = state
    queues: list[list[int]] = [[] for _ in range(STREAMS)]
    for index, action in enumerate(program[:at]):
        if action.kind in ("op", "record", "wait", "free") and action.stream != HOST:
            queues[action.stream].append(index)
    passed = {i for s in range(STREAMS) for i in queues[s][: heads[s]]}
    found: list[tuple[int | None, State]] = []
    for stream in range(STREAMS):
        if heads[stream] < len(queues[stream]) and ready(
            program, entry := queues[stream][heads[stream]], passed
        ):
            moved = tuple(head + (s == stream) for s, head in enumerate(heads))
            access = program[entry].kind in ("op", "free")
            found.append(
                (
                    entry if access else None,
                    (at, (*sorted((*done, entry)),) if access else done, moved),
                )
            )
    if at < len(program) and host_may_go_on(program, at, queues, passed):
        mine = program[at].kind == "op" and program[at].stream == HOST
        found.append(
            (at if mine else None, (at + 1, (*sorted((*done, at)),) if mine else done, heads)),
        )
    return found


def last_record(program: list[Action], event: int, before: int) -> int | None:
    records = [i for i, a in enumerate(program[:before]) if a.kind == "record" and a.event == event]
    return records[-1] if records else None


def ready(program: list[Action], entry: int, passed: set[int]) -> bool:
    if program[entry].kind == "free":
        return recorded_work(program, entry) <= passed
    if program[entry].kind != "wait":
        return True
    record = last_record(program, program[entry].event, entry)
    return record is None or record in passed


def recorded_work(program: list[Action], free: int) -> set[int]:
    """All that was issued before the free to a stream that was recorded: the allocator waits for it."""
    before = program[:free]
    streams = {action.stream for action in before if action.kind == "record-stream"}
    return {i for i, a in enumerate(before) if a.kind in ("op", "record", "wait") and a.stream in streams}


def host_may_go_on(program: list[Action], at: int, queues: list[list[int]], passed: set[int]) -> bool:
    action = program[at]
    if action.kind == "sync":
        return set(queues[action.stream]) <= passed
    if action.kind == "sync-device":
        return all(set(queue) <= passed for queue in queues)
    if action.kind == "sync-event":
        record = last_record(program, action.event, at)
        return record is None or record in passed
    return True


def conflicting(one: Action, other: Action) -> bool:
    shared = set(touched(one)) & set(touched(other))
    return one.storage == other.storage and (one.write or other.write) and bool(shared)


def touched(action: Action) -> set[int]:
    return {byte for low, high in action.view.runs() for byte in range(low, high)}


def true_races(program: list[Action]) -> set[tuple[int, int]]:
    seen = orders(program)
    pairs = itertools.combinations([i for i, a in enumerate(program) if a.kind == "op"], 2)
    return {
        (p, q) for p, q in pairs if conflicting(program[p], program[q]) and (p, q) in seen and (q, p) in seen
    }


@settings(max_examples=300, deadline=None)
@given(PROGRAMS)
def test_a_race_is_reported_iff_two_legal_schedules_order_the_pair_differently(program: list[Action]) -> None:
    assert races_found(program) == true_races(program)


@settings(max_examples=150, deadline=None)
@given(PROGRAMS)
def test_with_a_short_history_a_racy_program_is_still_called_racy(program: list[Action]) -> None:
    found, true = races_found(program, history=1), true_races(program)
    assert found <= true
    assert bool(found) == bool(true)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(ACTIONS, st.builds(Action, st.just("record-stream"), STREAM)), max_size=10), STREAM)
def test_a_block_that_is_handed_out_again_conflicts_with_its_last_users_until_they_are_ordered(
    program: list[Action], home: int
) -> None:
    program = [
        action for action in program if action.kind != "op" or (action.storage == 0 and action.stream != HOST)
    ]
    freed = [*program, Action("free", home, storage=0, view=Footprint(0, 8), write=True)]
    seen, last = orders(freed), len(freed) - 1
    expected = {
        i
        for i, action in enumerate(program)
        if action.kind == "op" and action.stream != home and (last, i) in seen
    }
    assert frees_found(freed, home) == expected


def frees_found(program: list[Action], home: int) -> set[int]:
    analysis = Analysis(history=10_000)
    analysis.alloc(0, 8, home, written=True)
    for index, action in enumerate(program):
        access, site = [(0, action.view)], (("line", index),)
        match action.kind:
            case "op":
                reads, writes = ([], access) if action.write else (access, [])
                analysis.op(index, "op", action.stream, reads, writes, site)
            case "record":
                analysis.record(action.event, action.stream)
            case "wait":
                analysis.stream_wait(action.stream, action.event)
            case "sync":
                analysis.host_wait_stream(action.stream, "sync")
            case "sync-event":
                analysis.host_wait_event(action.event, "sync")
            case "sync-device":
                analysis.host_wait_device("sync")
            case "record-stream":
                analysis.record_stream(0, action.stream)
            case "free":
                analysis.free(0)
                analysis.alloc(1, 8, home)
                analysis.op(index, "fill", home, [], [(1, Footprint(0, 8))])
    found = [finding for finding in analysis.findings.values() if finding.kind == "freed-in-use"]
    return {case.first for finding in found for case in finding.cases}


WHOLE = [(0, Footprint(0, 8))]


def started(streams: int = 2) -> Analysis:
    analysis = Analysis()
    analysis.alloc(0, 8, stream=0)
    analysis.op(0, "fill", 0, [], WHOLE, (("line", 0),))
    return analysis


def kinds(analysis: Analysis) -> list[str]:
    return [finding.kind for finding in analysis.findings.values()]


def test_a_read_on_another_stream_without_order_is_a_race() -> None:
    analysis = started()
    analysis.op(1, "read", 1, WHOLE, [], (("line", 1),))
    (finding,) = analysis.findings.values()
    assert (finding.kind, finding.first.op, finding.second.op) == ("race", "fill", "read")
    assert finding.cases == [(0, 1, "unnamed buffer", 0, 8, None)]


def test_an_event_recorded_too_early_orders_nothing_that_came_later() -> None:
    analysis = Analysis()
    analysis.alloc(0, 8, stream=0)
    analysis.record(0, stream=0)
    analysis.op(0, "fill", 0, [], WHOLE)
    analysis.stream_wait(1, event=0)
    analysis.op(1, "read", 1, WHOLE, [])
    assert kinds(analysis) == ["race"]


def test_order_is_transitive_over_a_third_stream() -> None:
    analysis = started()
    analysis.record(0, stream=0)
    analysis.stream_wait(2, event=0)
    analysis.record(1, stream=2)
    analysis.stream_wait(1, event=1)
    analysis.op(1, "read", 1, WHOLE, [])
    assert kinds(analysis) == []


def test_a_host_read_of_pinned_memory_needs_a_wait() -> None:
    analysis = started()
    analysis.op(1, "host read", HOST, WHOLE, [])
    assert kinds(analysis) == ["race"]


def test_a_passed_query_orders_as_a_wait_does_and_costs_none() -> None:
    analysis = started()
    analysis.record(0, stream=0)
    analysis.host_wait_event(0, "query", cost=False)
    analysis.op(1, "host read", HOST, WHOLE, [])
    assert kinds(analysis) == []
    assert not analysis.costs.host_waits


def freed_under_a_read() -> Analysis:
    analysis = started()
    analysis.record(0, stream=0)
    analysis.stream_wait(1, event=0)
    analysis.op(1, "read", 1, WHOLE, [], (("line", 1),))
    analysis.free(0, lambda: (("line", 2),))
    return analysis


def given_out(analysis: Analysis, stream: int = 0, nbytes: int = 8) -> list[str]:
    analysis.alloc(1, nbytes, stream)
    analysis.op(2, "fill", stream, [], [(1, Footprint(0, nbytes))], (("line", 3),))
    return kinds(analysis)


def test_a_block_freed_under_another_streams_read_and_given_out_is_reported() -> None:
    analysis = freed_under_a_read()
    assert kinds(analysis) == []
    assert given_out(analysis) == ["freed-in-use"]
    (finding,) = analysis.findings.values()
    assert finding.takeover is not None
    assert [side.op for side in (finding.first, finding.second, finding.takeover)] == ["read", "free", "fill"]
    assert finding.cases[0][:2] == (1, 2)


def test_a_freed_block_is_nobodys_fault_once_its_stream_has_waited_for_the_last_use() -> None:
    analysis = freed_under_a_read()
    analysis.record(1, stream=1)
    analysis.stream_wait(0, event=1)
    assert given_out(analysis) == []


def test_what_is_given_out_early_may_be_written_late() -> None:
    analysis = freed_under_a_read()
    analysis.alloc(1, 8, 0)
    analysis.record(1, stream=1)
    analysis.stream_wait(0, event=1)
    analysis.op(2, "fill", 0, [], [(1, Footprint(0, 8))])
    assert kinds(analysis) == []


def test_a_freed_block_goes_to_no_other_stream_and_to_no_larger_allocation() -> None:
    assert given_out(freed_under_a_read(), stream=2) == []
    assert given_out(freed_under_a_read(), nbytes=513) == []
    assert given_out(freed_under_a_read(), nbytes=512) == ["freed-in-use"]


def test_record_stream_keeps_a_block_alive() -> None:
    analysis = started()
    analysis.record(0, stream=0)
    analysis.stream_wait(1, event=0)
    analysis.op(1, "read", 1, WHOLE, [])
    analysis.record_stream(0, stream=1)
    analysis.free(0)
    assert kinds(analysis) == []


def test_a_read_of_memory_that_nothing_wrote_is_reported_with_its_bytes() -> None:
    analysis = Analysis(namer=lambda storage, view: "weight.ds_secondary_tensor")
    analysis.alloc(0, 8, stream=0)
    analysis.op(0, "fill", 0, [], [(0, Footprint(0, 6))])
    analysis.op(1, "read", 0, WHOLE, [])
    (finding,) = analysis.findings.values()
    assert (finding.kind, finding.first.low, finding.first.high) == ("unwritten-read", 6, 8)
    assert finding.names == {"weight.ds_secondary_tensor": 1}


def test_the_same_pair_of_lines_is_one_finding_with_a_count() -> None:
    analysis = Analysis()
    for storage in range(5):
        analysis.alloc(storage, 8, stream=0)
        analysis.op(2 * storage, "copy_", 0, [], [(storage, Footprint(0, 8))], (("line", 7),))
        analysis.op(2 * storage + 1, "cat", 1, [(storage, Footprint(0, 8))], [], (("line", 9),))
    (finding,) = analysis.findings.values()
    assert finding.count == 5


def test_memory_stays_bounded_and_says_what_it_dropped() -> None:
    analysis = Analysis(history=4)
    analysis.alloc(0, 1000, stream=0, written=True)
    for index in range(1000):
        analysis.op(index, "read", 0, [(0, Footprint(index, 1))], [], (("line", index),))
    assert analysis.memory.touches <= 32
    assert analysis.memory.forgotten > 900


def test_costs_count_waits_by_source_place() -> None:
    analysis = started()
    for _ in range(3):
        analysis.host_wait_stream(0, "stream", (("partition_parameters.py", 1951),))
    analysis.record(0, 0, (("a", 1),))
    assert analysis.costs.host_waits == {("stream", (("partition_parameters.py", 1951),)): 3}
    assert analysis.costs.records == {(("a", 1),): 1}


def test_events_that_order_nothing_any_more_are_forgotten() -> None:
    analysis = Analysis()
    for event in range(10 * EVENTS_KEPT):
        analysis.op(event, "write", 0, [], [])
        analysis.record(event, 0)
        analysis.host_wait_stream(0, "stream")
    assert analysis.clocks.events_peak <= EVENTS_KEPT


def test_an_event_that_still_orders_something_is_kept() -> None:
    analysis = Analysis()
    analysis.op(0, "write", 0, [], WHOLE)
    analysis.record(0, 0)
    for event in range(1, 10 * EVENTS_KEPT):
        analysis.record(event, 1)
    analysis.stream_wait(2, 0)
    analysis.op(1, "read", 2, WHOLE, [])
    assert analysis.findings == {}
