"""Names of streams: the attribute or variable that holds each, or the ranks whose collectives run on it."""

from __future__ import annotations

import gc
from types import ModuleType
from typing import Any

from harness.device.nodes import MARK
from harness.device.streams import Machine
from harness.device.virtual_collectives import VirtualBackend

HOLDERS_OF_ANY = ("stream", "current", "_current", "default", "previous", "caller", "self", MARK)
PLUMBING = ("harness", "torch", "builtins", "contextlib")  # packages whose objects hold any stream


def plain_name(name: str) -> str:
    """`_DeepSpeedZeroOptimizer_Stage3__buffer` is what the class calls `__buffer`."""
    return name.rpartition("__")[2] if name.startswith("_") and "__" in name[1:] else name


def stream_names(machine: Machine) -> dict[int, str]:
    """A name for each stream: the attribute or variable that holds it; the default stream is `compute`."""
    groups = _group_streams(machine.collectives)
    named = {s.id: groups.get(s.id) or _holder(s) for s in machine.streams[1:]}
    return {0: "compute"} | {stream: name for stream, name in named.items() if name is not None}


def _group_streams(backend: VirtualBackend | None) -> dict[int, str]:
    """The streams on which collectives and messages run, by the ranks of their group."""
    if backend is None:
        return {}
    ranks = dict(backend._groups.values())
    of_groups = {
        stream.id: f"collectives of {len(ranks[number])} ranks" if number else "collectives of all"
        for number, stream in backend._streams.items()
    }
    return of_groups | {
        stream.id: f"messages of ranks {low} and {high}" for (_, low, high), stream in backend._pairs.items()
    }


def _holder(stream: Any) -> str | None:
    """The name that holds it, `side`; where that says nothing, with the class of the object: `Prefetcher.stream`."""
    vague = None
    for referrer in gc.get_referrers(stream):
        names = referrer if isinstance(referrer, dict) else getattr(referrer, "__dict__", None)
        for name, value in list(names.items()) if isinstance(names, dict) else ():
            if value is stream and isinstance(name, str):
                if name not in HOLDERS_OF_ANY:
                    return plain_name(name)
                vague = vague or _with_class(name, referrer)
    return vague


def _with_class(name: str, referrer: Any) -> str | None:
    """The attribute with the class of the program's object that has it; None for plumbing's, and for variables."""
    objects = gc.get_referrers(referrer) if isinstance(referrer, dict) else [referrer]
    for owner in objects:
        kind = type(owner)
        is_its = owner is referrer or getattr(owner, "__dict__", None) is referrer
        if is_its and not issubclass(kind, ModuleType) and kind.__module__.partition(".")[0] not in PLUMBING:
            return f"{kind.__name__}.{plain_name(name)}"
    return None
