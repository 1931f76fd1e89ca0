"""Timelines as Chrome trace events, the JSON that Perfetto (ui.perfetto.dev) and chrome://tracing show.

Format: "Trace Event Format" (Chromium project). Times are microseconds. One process is one timeline; its threads are
the host and the streams.

Chakra's execution traces (MLCommons), which ASTRA-sim reads, are not written. Their schema is on PyPI only in
mlc-chakra 1.0.0, a source distribution that needs a protobuf compiler to be built; and a Chakra graph says which node
follows which, while what an ordering costs comes from a host that waits for streams. An exporter would start from
harness.simulate.trace.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.simulate.costs import LIMITS, describe
from harness.simulate.timeline import Timeline
from harness.simulate.trace import Kind
from harness.system.whole_file import write_whole

HOST_THREAD = 0
Event = dict[str, Any]


def chrome_trace(timeline: Timeline, process: int = 1, title: str = "") -> dict[str, Any]:
    """The last simulated step as a Chrome trace: kernels and collectives on streams, the host's work and waits."""
    return {
        "displayTimeUnit": "ms",
        "otherData": {"evidence": "simulated-time", **timeline.trace.about},
        "traceEvents": [
            *_names(timeline, process, title),
            *_streams(timeline, process),
            *_host(timeline, process),
            *_late_gathers(timeline, process),
        ],
    }


def write_chrome_trace(timeline: Timeline, file: Path, title: str = "") -> None:
    """Write it to `file`; compressed where the name ends in .gz. Raises HarnessError where it cannot be written."""
    text = json.dumps(chrome_trace(timeline, title=title), separators=(",", ":")).encode()
    content = gzip.compress(text, mtime=0) if file.suffix == ".gz" else text
    write_whole(file, lambda beside: beside.write_bytes(content))


def _names(timeline: Timeline, process: int, title: str) -> Iterator[Event]:
    about = timeline.trace.about
    name = title or f"{about.get('model', 'step')} {about.get('variant', '')} (simulated time)"
    yield _meta("process_name", process, HOST_THREAD, name)
    yield _meta("thread_name", process, HOST_THREAD, "host")
    for number, stream in enumerate(timeline.trace.streams):
        yield _meta("thread_name", process, number + 1, stream)
        yield {
            "ph": "M",
            "name": "thread_sort_index",
            "pid": process,
            "tid": number + 1,
            "args": {"sort_index": number + 1},
        }


def _meta(kind: str, process: int, thread: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _streams(timeline: Timeline, process: int) -> Iterator[Event]:
    kinds, streams = timeline.trace.columns["kind"], timeline.trace.columns["stream"]
    origin = timeline.step_start
    for row in np.flatnonzero(np.isfinite(timeline.end)):
        about = describe(timeline.trace, int(row))
        collective = kinds[row] == Kind.COLLECTIVE
        if collective:
            about["limit"] = LIMITS[timeline.cost.limit[row]]
        yield {
            "ph": "X",
            "name": f"{about['name']} of {about['ranks']}" if collective else about["name"],
            "cat": "collective" if collective else "kernel",
            "pid": process,
            "tid": int(streams[row]) + 1,
            "ts": round((timeline.start[row] - origin) * 1e6, 3),
            "dur": round((timeline.end[row] - timeline.start[row]) * 1e6, 3),
            "args": about,
        }


def _host(timeline: Timeline, process: int) -> Iterator[Event]:
    """Host waits one by one; what lies between two waits as one piece of work."""
    origin, sites = timeline.step_start, timeline.trace.columns["site"]
    begin = float(timeline.host_start[0]) if len(timeline.trace) else 0.0
    for row in np.flatnonzero(timeline.blocked > 0):
        released = float(timeline.host_end[row])
        asked = released - float(timeline.blocked[row])
        reason = timeline.trace.sites[sites[row]] if sites[row] >= 0 else "memory"
        yield _host_event("issues work", "host", begin, asked, process, origin)
        yield _host_event(f"waits: {reason}", "wait", asked, released, process, origin)
        begin = released
    if len(timeline.trace):
        yield _host_event("issues work", "host", begin, float(timeline.host_end[-1]), process, origin)


def _host_event(name: str, category: str, begin: float, end: float, process: int, origin: float) -> Event:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": process,
        "tid": HOST_THREAD,
        "ts": round((begin - origin) * 1e6, 3),
        "dur": round((end - begin) * 1e6, 3),
    }


def _late_gathers(timeline: Timeline, process: int) -> Iterator[Event]:
    """An arrow from each copy to the gather that overtook it."""
    streams = timeline.trace.columns["stream"]
    for number, one in enumerate(timeline.trace.secondaries):
        copied, read = timeline.end[one.written], timeline.start[one.read]
        if read >= copied:
            continue
        common = {
            "cat": "race",
            "name": f"gathered before copied: {one.parameter}",
            "id": number,
            "pid": process,
        }
        for phase, row, moment in (("s", one.read, read), ("f", one.written, copied)):
            yield {
                **common,
                "ph": phase,
                "bp": "e",
                "tid": int(streams[row]) + 1,
                "ts": round((moment - timeline.step_start) * 1e6, 3),
            }
