"""The trace of one training step as seen by one rank: what the host issued, in order, as compact columns on disk.

Needs neither torch nor DeepSpeed; `harness.simulate.record` makes traces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.clock.products import Product
from harness.system.whole_file import write_whole

FORMAT = 2
HOST = -1  # "stream" of what only the host does


class Kind(IntEnum):
    """What a record is."""

    OP = 0  # a kernel on a stream
    TRANSFER = 1  # a copy between host and device, on a stream
    COLLECTIVE = 2  # on its group's stream
    RECORD = 3  # an event is recorded on a stream
    WAIT = 4  # a stream waits for an event
    SYNC = 5  # the host waits for a stream
    SYNC_EVENT = 6  # the host waits for an event
    SYNC_ALL = 7  # the host waits for the device
    ALLOC = 8
    FREE = 9
    KEEP = 10  # record_stream: memory may not be reused before the stream's work so far is done


class Row(NamedTuple):
    """One record. Bytes and flops are this rank's; `payload` is a collective's whole payload."""

    kind: Kind
    stream: int = HOST
    name: int = -1  # index into Trace.names
    event: int = -1
    read: int = 0  # bytes
    written: int = 0  # bytes
    flops: float = 0.0
    payload: int = 0  # bytes; of ALLOC the size
    group: int = -1  # index into Trace.groups
    storage: int = -1
    site: int = -1  # index into Trace.sites
    views: int = 0  # operators without device work that the host ran since the record before
    product: int = -1  # index into Trace.products, of matrix products


COLUMNS: dict[str, str] = {
    "kind": "u1",
    "stream": "i2",
    "name": "i4",
    "event": "i4",
    "read": "i8",
    "written": "i8",
    "flops": "f8",
    "payload": "i8",
    "group": "i2",
    "storage": "i4",
    "site": "i4",
    "views": "i4",
    "product": "i4",
}


class Secondary(NamedTuple):
    """One parameter's secondary shard: the rows that write it and the first that reads it on another stream."""

    parameter: str
    written: int  # row of the last write
    read: int  # row of the first read from another stream after it


@dataclass(frozen=True, eq=False)
class Trace:
    """One step. All columns have one value per record, in the order in which the host issued them."""

    columns: dict[str, npt.NDArray[Any]]
    names: tuple[str, ...]
    sites: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]  # global ranks of each communication group
    streams: tuple[str, ...]  # a name per stream
    secondaries: tuple[Secondary, ...]
    products: tuple[Product, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)  # what was traced, and with what

    def __len__(self) -> int:
        return len(self.columns["kind"])

    def rows(self) -> Iterator[Row]:
        lists = [self.columns[name].tolist() for name in COLUMNS]
        for values in zip(*lists, strict=True):
            yield Row(Kind(values[0]), *values[1:])

    def count(self, kind: Kind) -> int:
        return int((self.columns["kind"] == kind).sum())

    @property
    def tokens(self) -> int:
        """Global tokens of the step."""
        return int(self.about["tokens"])


def from_rows(
    rows: Sequence[Row],
    *,
    names: Sequence[str] = (),
    sites: Sequence[str] = (),
    groups: Sequence[tuple[int, ...]] = (),
    streams: Sequence[str] = (),
    secondaries: Sequence[Secondary] = (),
    products: Sequence[Product] = (),
    about: dict[str, Any] | None = None,
) -> Trace:
    """A trace from records in host order."""
    table: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [() for _ in COLUMNS]
    columns = {
        name: np.array(values, dtype=kind)
        for (name, kind), values in zip(COLUMNS.items(), table, strict=True)
    }
    return Trace(
        columns,
        tuple(names),
        tuple(sites),
        tuple(groups),
        tuple(streams),
        tuple(secondaries),
        tuple(products),
        about or {},
    )


def save(trace: Trace, file: Path) -> None:
    """Write the trace to `file` (npz, compressed), whole or not at all. Raises HarnessError on a full disk."""
    texts = {
        "format": FORMAT,
        "names": trace.names,
        "sites": trace.sites,
        "groups": [_ranges(group) for group in trace.groups],
        "streams": trace.streams,
        "secondaries": trace.secondaries,
        "products": trace.products,
        "about": trace.about,
    }
    columns = {"texts": np.frombuffer(json.dumps(texts).encode(), "u1"), **trace.columns}

    def write(beside: Path) -> None:
        with beside.open("wb") as content:  # given a name, numpy would add .npz to it
            np.savez_compressed(content, allow_pickle=False, **columns)

    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, write)


def load(file: Path) -> Trace:
    """Read what `save` wrote. Raises OSError, ValueError or KeyError for anything else."""
    with np.load(file, allow_pickle=False) as content:
        texts = json.loads(content["texts"].tobytes())
        if texts["format"] != FORMAT:
            raise ValueError(f"{file}: trace format {texts['format']}, not {FORMAT}")
        columns = {name: content[name] for name in COLUMNS}
    return Trace(
        columns,
        tuple(texts["names"]),
        tuple(texts["sites"]),
        tuple(tuple(range(*group)) for group in texts["groups"]),
        tuple(texts["streams"]),
        tuple(Secondary(*entry) for entry in texts["secondaries"]),
        tuple(Product(*entry) for entry in texts["products"]),
        texts["about"],
    )


def _ranges(ranks: tuple[int, ...]) -> tuple[int, int, int]:
    """Groups are evenly spaced ranks: start, stop, step."""
    step = ranks[1] - ranks[0] if len(ranks) > 1 else 1
    found = (ranks[0], ranks[-1] + 1, step)
    if tuple(range(*found)) != ranks:
        raise ValueError(f"ranks {ranks} are not evenly spaced")
    return found
