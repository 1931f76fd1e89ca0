"""Streams of `torch.cuda` and `torch.accelerator`: those of the virtual device under another name."""

from __future__ import annotations

from typing import Any

from harness.device.streams import Event, Stream, StreamContext, machine


def current_stream(device: Any = None) -> Stream:
    return machine().current


def default_stream(device: Any = None) -> Stream:
    return machine().default


def set_stream(stream: Stream | None) -> None:
    if stream is not None:
        stream.machine.current = stream


STREAMS = {
    "Stream": Stream,
    "Event": Event,
    "StreamContext": StreamContext,
    "stream": StreamContext,
    "current_stream": current_stream,
    "default_stream": default_stream,
    "set_stream": set_stream,
}
