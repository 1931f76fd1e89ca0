"""Streams, events and policies of the virtual device: CUDA's semantics, and legal orders only."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.clock.policy import policy_named
from harness.device.errors import DeviceError
from harness.device.policies import MainFirst, RandomOrder, SideFirst
from harness.device.schedule import Eager, Policy
from harness.device.streams import PATIENCE, Event, Machine, Stream, StreamContext, use
from harness.system.errors import HarnessError


class Program:
    """A machine whose ops only write down that they ran."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.machine = Machine(policy or Policy())
        self.ran: list[str] = []

    def stream(self) -> Stream:
        with use(self.machine):
            return Stream()

    def event(self, **options: bool) -> Event:
        with use(self.machine):
            return Event(**options)

    def op(self, name: str, stream: Stream | None = None) -> None:
        self.machine.issue(name, lambda: self.ran.append(name), stream)


def test_nothing_runs_before_it_must() -> None:
    program = Program()
    program.op("a")
    assert program.ran == []
    program.machine.default.synchronize()
    assert program.ran == ["a"]


def test_a_stream_is_a_fifo() -> None:
    program = Program()
    for name in "abc":
        program.op(name)
    program.machine.default.synchronize()
    assert program.ran == ["a", "b", "c"]


def test_synchronising_a_stream_leaves_others_alone() -> None:
    program = Program()
    side = program.stream()
    program.op("side", side)
    program.op("main")
    program.machine.default.synchronize()
    assert program.ran == ["main"]


def test_a_wait_brings_exactly_what_was_recorded() -> None:
    program = Program()
    side, event = program.stream(), program.event()
    program.op("before", side)
    event.record(side)
    program.op("after", side)
    event.wait(program.machine.default)
    program.op("main")
    program.machine.default.synchronize()
    assert program.ran == ["before", "main"]


def test_recording_anew_does_not_change_an_earlier_wait() -> None:
    program = Program()
    side, event = program.stream(), program.event()
    program.op("first", side)
    event.record(side)
    event.wait(program.machine.default)
    program.op("second", side)
    event.record(side)
    program.machine.default.synchronize()
    assert program.ran == ["first"]


def test_waiting_for_an_event_never_recorded_does_nothing() -> None:
    program = Program()
    event = program.event()
    event.wait(program.machine.default)
    event.synchronize()
    assert event.query()
    assert program.machine.default.issued == 0


def test_wait_stream_orders_after_all_work_so_far() -> None:
    program = Program(SideFirst())
    side = program.stream()
    program.op("main")
    side.wait_stream(program.machine.default)
    program.op("side", side)
    side.synchronize()
    assert program.ran == ["main", "side"]


def test_a_query_tells_and_does_not_wait() -> None:
    program = Program()
    event = program.event()
    program.op("a")
    event.record()
    assert not event.query()
    assert not program.machine.default.query()
    assert program.ran == []
    event.synchronize()
    assert event.query()


def test_a_loop_that_asks_again_and_again_ends() -> None:
    program = Program()
    event = program.event()
    program.op("a")
    event.record()
    asked = 0
    while not event.query():
        asked += 1
    assert asked == PATIENCE - 1


def test_a_stream_context_nests_and_ignores_none() -> None:
    program = Program()
    side = program.stream()
    with StreamContext(side):
        assert program.machine.current is side
        with StreamContext(None), side:
            assert program.machine.current is side
    assert program.machine.current is program.machine.default


def test_elapsed_time_needs_timing_and_records() -> None:
    program = Program()
    plain, start, end = program.event(), program.event(enable_timing=True), program.event(enable_timing=True)
    with pytest.raises(DeviceError, match="enable_timing"):
        plain.elapsed_time(end)
    with pytest.raises(DeviceError, match="recorded"):
        start.elapsed_time(end)
    start.record()
    end.record()
    assert start.elapsed_time(end) >= 0


def test_host_waits_are_counted_by_reason_and_line() -> None:
    program = Program()
    event = program.event()
    event.record()
    program.machine.default.synchronize()
    event.synchronize()
    program.machine.synchronize()
    assert [reason for reason, _ in program.machine.host_syncs] == ["stream", "event", "device"]
    assert all(__file__ in site for _, site in program.machine.host_syncs)


def test_side_first_runs_side_work_at_once_and_main_work_last() -> None:
    program = Program(SideFirst())
    side = program.stream()
    program.op("main")
    program.op("side", side)
    assert program.ran == ["side"]
    program.machine.synchronize()
    assert program.ran == ["side", "main"]


def test_main_first_does_the_reverse() -> None:
    program = Program(MainFirst())
    side = program.stream()
    program.op("side", side)
    program.op("main")
    assert program.ran == ["main"]


def test_side_first_starts_what_a_host_wait_has_freed() -> None:
    program = Program(SideFirst())
    side = program.stream()
    program.op("main")
    side.wait_stream(program.machine.default)
    program.op("side", side)
    assert program.ran == []
    program.machine.default.synchronize()
    program.op("other", program.stream())
    assert program.ran == ["main", "side", "other"]


def test_random_order_is_a_function_of_its_seed() -> None:
    def ran(seed: str) -> list[str]:
        program = Program(RandomOrder(seed))
        streams = [program.machine.default, program.stream(), program.stream()]
        for step in range(30):
            program.op(f"{step}", streams[step % 3])
            program.machine.policy.at_collective(program.machine)
        program.machine.finish()
        return program.ran

    assert ran("1") == ran("1")
    assert len({tuple(ran(str(seed))) for seed in range(8)}) > 1


@pytest.mark.parametrize("text", ["eager", "side-first", "main-first", "random(7)"])
def test_policies_have_names(text: str) -> None:
    assert isinstance(policy_named(text), Policy)


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(HarnessError, match=r"'fastest' is not known here; use one of .*side-first.*random"):
        policy_named("fastest")


def test_a_flight_lands_before_anything_that_waits_for_it() -> None:
    program = Program(Eager())
    side, landed = program.stream(), []
    program.machine.issue("start", lambda: lambda: landed.append("end"), side)
    program.op("unrelated")
    assert landed == []
    program.machine.default.wait_stream(side)
    assert landed == ["end"]


STREAMS = 4
instructions = st.lists(
    st.one_of(
        st.tuples(st.just("op"), st.integers(0, STREAMS - 1)),
        st.tuples(st.just("record"), st.integers(0, 3), st.integers(0, STREAMS - 1)),
        st.tuples(st.just("wait"), st.integers(0, 3), st.integers(0, STREAMS - 1)),
        st.tuples(st.just("sync event"), st.integers(0, 3)),
        st.tuples(st.just("sync"), st.integers(0, STREAMS - 1)),
        st.tuples(st.just("query"), st.integers(0, 3)),
        st.tuples(st.just("collective")),
    ),
    max_size=60,
)
policies = st.one_of(
    st.sampled_from([Policy, Eager, SideFirst, MainFirst]).map(lambda kind: kind()),
    st.integers(0, 99).map(RandomOrder),
)


class HappensBefore:
    """A model of its own: for each op the set of ops that must run before it."""

    def __init__(self) -> None:
        self.stream: list[set[int]] = [set() for _ in range(STREAMS)]
        self.event: dict[int, set[int]] = {}
        self.host: set[int] = set()
        self.before: list[set[int]] = []

    def op(self, stream: int) -> None:
        self.stream[stream] |= self.host
        self.before.append(set(self.stream[stream]))
        self.stream[stream].add(len(self.before) - 1)


@settings(max_examples=300, deadline=None)
@given(instructions, policies)
def test_every_order_is_a_linear_extension_of_what_happens_before(
    program_text: list[tuple[str, ...]], policy: Policy
) -> None:
    program, model = Program(policy), HappensBefore()
    streams = [program.machine.default, *(program.stream() for _ in range(STREAMS - 1))]
    events = [program.event() for _ in range(4)]
    for name, *operands in program_text:
        numbers = [int(x) for x in operands]
        if name == "op":
            program.op(str(len(model.before)), streams[numbers[0]])
            model.op(numbers[0])
        elif name == "record":
            events[numbers[0]].record(streams[numbers[1]])
            model.event[numbers[0]] = set(model.stream[numbers[1]])
        elif name == "wait":
            events[numbers[0]].wait(streams[numbers[1]])
            model.stream[numbers[1]] |= model.event.get(numbers[0], set())
        elif name == "sync event":
            events[numbers[0]].synchronize()
            model.host |= model.event.get(numbers[0], set())
        elif name == "sync":
            streams[numbers[0]].synchronize()
            model.host |= model.stream[numbers[0]]
        elif name == "query" and events[numbers[0]].query():
            model.host |= model.event.get(numbers[0], set())
        elif name == "collective":
            program.machine.policy.at_collective(program.machine)
        assert {str(i) for i in model.host} <= set(program.ran)
    program.machine.finish()
    position = {int(op): place for place, op in enumerate(program.ran)}
    assert sorted(position) == list(range(len(model.before)))
    for op, before in enumerate(model.before):
        assert all(position[earlier] < position[op] for earlier in before)


def test_streams_that_wait_for_each_other_are_named() -> None:
    program = Program()
    one, other = program.stream(), program.stream()
    for waiting, awaited in ((one, other), (other, one)):
        event = program.event()
        event.stream, event.position = awaited, 1  # the wait itself, which no program can ask for
        waiting.wait_event(event)
    with pytest.raises(DeviceError, match=r"streams wait for each other: \[<virtual stream"):
        one.synchronize()
