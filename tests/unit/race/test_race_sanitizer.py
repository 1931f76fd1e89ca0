"""torch's own stream sanitizer as an oracle, where it can see the case: whole buffers, no host accesses."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from torch.cuda._sanitizer import EventHandler

from harness.race.happens_before import Analysis
from harness.race.memory import Footprint

STREAM, EVENT, BUFFER = st.integers(0, 2), st.integers(0, 1), st.integers(1, 2)
ACTIONS = st.one_of(
    st.tuples(st.just("read"), STREAM, BUFFER),
    st.tuples(st.just("write"), STREAM, BUFFER),
    st.tuples(st.just("record"), STREAM, EVENT),
    st.tuples(st.just("wait"), STREAM, EVENT),
    st.tuples(st.just("sync"), STREAM, st.just(0)),
    st.tuples(st.just("sync-event"), st.just(0), EVENT),
    st.tuples(st.just("sync-device"), st.just(0), st.just(0)),
)
Program = list[tuple[str, int, int]]


def racy_for_torch(program: Program) -> bool:
    handler, errors = EventHandler(), []
    for kind, stream, target in program:
        match kind:
            case "read" | "write":
                read, write = ({target}, set()) if kind == "read" else (set(), {target})
                errors += handler._handle_kernel_launch(
                    stream, read, write, set(), kind, defaultdict(lambda: ["x"])
                )
            case "record":
                handler._handle_event_record(target, stream)
            case "wait":
                handler._handle_event_wait(target, stream)
            case "sync":
                handler._handle_stream_synchronization(stream)
            case "sync-event":
                handler._handle_event_synchronization(target)
            case "sync-device":
                handler._handle_device_synchronization()
    return bool(errors)


def racy_for_us(program: Program) -> bool:
    analysis, whole = Analysis(), Footprint(0, 8)
    for buffer in (1, 2):
        analysis.alloc(buffer, 8, stream=0, written=True)
    for index, (kind, stream, target) in enumerate(program):
        match kind:
            case "read":
                analysis.op(index, kind, stream, [(target, whole)], [])
            case "write":
                analysis.op(index, kind, stream, [], [(target, whole)])
            case "record":
                analysis.record(target, stream)
            case "wait":
                analysis.stream_wait(stream, target)
            case "sync":
                analysis.host_wait_stream(stream, kind)
            case "sync-event":
                analysis.host_wait_event(target, kind)
            case "sync-device":
                analysis.host_wait_device(kind)
    return bool(analysis.findings)


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTIONS, min_size=2, max_size=14))
def test_torchs_sanitizer_and_the_analysis_agree_on_who_is_racy(program: Program) -> None:
    assert racy_for_us(program) == racy_for_torch(program)
