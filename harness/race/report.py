"""What a race analysis says, as records: of one rank, and merged over all ranks.

`races.json` is a `Report`; its JSON Schema stands in races.schema.json beside this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.race.searched import Frozen, Searched
from harness.race.sites import Frame

SCHEMA_FILE = Path(__file__).with_name("races.schema.json")
HOST_STREAM = "host"
TRAINED_NOTHING = (
    "an engine was made"  # how the problem of a script begins that came to its end without a step
)


class Place(Frozen):
    """One source line."""

    file: str
    line: int
    function: str
    code: str = ""

    @classmethod
    def of(cls, frame: Any) -> Place:
        if isinstance(frame, Frame):
            return cls(file=frame.short, line=frame.line, function=frame.function, code=frame.code)
        return cls(file=str(frame[0]), line=int(frame[1]), function=str(frame[2]) if len(frame) > 2 else "")

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}".rstrip()


class Access(Frozen):
    """One of the two accesses: an op on a stream, the byte interval [low, high) of the storage, and who issued it."""

    op: str
    access: Literal["READ", "WRITE", "FREE"]
    stream: str
    low: int
    high: int
    site: tuple[Place, ...]

    @property
    def place(self) -> str:
        return str(self.site[0]) if self.site else "(no Python frame)"


class Trace(Frozen):
    """One issued thing of the excerpt around a race."""

    index: int
    stream: str
    what: Literal["op", "record", "wait", "host-wait"]
    name: str
    place: str = ""
    event: int | None = None


class Effect(Frozen):
    """Whether some legal schedule changes values because of a race."""

    found: bool
    schedules: int  # tried
    schedule: str | None = None  # the one that was found, in words
    decisions: int | None = None  # how many orders were swapped in it, after minimisation
    changed: str | None = None  # what differs from the reference; where not found, under the first of `also`
    also: tuple[
        str, ...
    ] = ()  # named policies under which the values of the whole program change, or it fails
    failing: tuple[str, ...] = ()  # of these, those under which it fails
    compared: bool = True  # whether there were values to compare; not, where only a failure would have shown
    replay: str | None = None  # file that reproduces it, or the first of `also` where it was not found
    story: tuple[str, ...] = ()


class Instance(Frozen):
    """One case: op indices in the order of issue, the memory's name, the second access's bytes, the training step.

    Of memory freed while in use the second op is that of `takeover`, and the bytes are the first access's.
    """

    first: int
    second: int
    name: str
    low: int
    high: int
    step: int | None = None


class Race(Frozen):
    """A pair of source places between which an ordering is missing."""

    id: str
    kind: Literal["race", "freed-in-use", "unwritten-read"]
    label: str | None = None  # a fault known by name, see LABELS
    first: Access  # in the order of issue; of an unwritten read, the first read and the one that computes with it
    second: Access
    takeover: Access | None = (
        None  # of memory freed while in use: the first write of who may be given the block
    )
    names: dict[str, int]  # tensor or parameter → times
    nbytes: int  # of the storage, in the first case met
    count: int
    ranks: tuple[int, ...]
    steps: tuple[int, ...] = ()  # training steps in which it was met, where an engine says so
    cases: dict[int, tuple[Instance, ...]] = Field(default_factory=dict)  # rank → the first few
    window: tuple[Trace, ...] = ()
    effect: Effect | None = None


class Cost(Frozen):
    """How often one source place waited or recorded on one rank."""

    kind: Literal["host-wait", "event-record", "stream-wait"]
    reason: str = ""
    place: Place | None
    count: int


class Held(Frozen):
    """What the analysis itself held."""

    storages_peak: int
    accesses_peak: int
    accesses_dominated: int  # dropped, a newer one stands for them
    accesses_forgotten: int  # dropped for want of room: a race with them would be missed
    events_peak: int = 0


class Unseen(Frozen):
    """A way into memory that leaves what was done there unseen, and how often it was taken."""

    what: str
    place: Place | None = None
    count: int = 1


class Coverage(Frozen):
    """How much of a run the analysis saw: of one rank, or the sums over all."""

    device_ops: int = 0
    host_accesses: int = 0  # to pinned memory
    collectives: int = 0
    streams: int = 0  # on the rank that had most
    host_threads: int = 1  # that worked on the device or ordered what did, likewise
    unseen: tuple[Unseen, ...] = ()
    native: tuple[str, ...] = ()  # libraries loaded by the program that work on tensors


class Read(Frozen):
    """A number that the host read."""

    place: str
    value: str


class Reads(Frozen):
    """All that the host of a rank read: what it hashes to, and of a host with one thread the first single numbers."""

    digest: str
    first: tuple[Read, ...] = ()


class RankReport(Frozen):
    """One rank's analysis."""

    rank: int
    ops: int
    steps: int | None = None  # optimizer steps of a script; None of a run, which writes them down itself
    races: tuple[Race, ...]
    costs: tuple[Cost, ...]
    held: Held
    coverage: Coverage = Coverage()
    digest: str | None = None  # of the program's final values
    left: bool = True  # whether a model or a tensor on the device was among them
    reads: Reads | None = None  # of a script
    problem: str | None = None


class Report(Frozen):
    """All ranks' analyses, merged."""

    schema_version: Literal[1] = 1
    program: str
    ranks: int
    steps: int | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    evidence: Literal["virtual-device"] = "virtual-device"
    ops: int  # over all ranks
    races: tuple[Race, ...]
    costs: tuple[Cost, ...]  # of rank 0
    held: Held  # the largest of any rank
    coverage: Coverage = Coverage()
    problems: tuple[str, ...] = ()
    schedules_tried: int = 0
    search: Searched | None = None

    def of_kind(self, kind: str) -> list[Race]:
        return [race for race in self.races if race.kind == kind]

    @property
    def labels(self) -> set[str]:
        return {race.label for race in self.races if race.label}


LABELS = {
    "hpz-secondary-copy": "hpZ: the copy into the secondary tensor and the all-gather that reads it",
    "step-partition-copy": "ZeRO-3: the optimizer step's copy into the 16-bit partitions and the next all-gather",
    "hpz-missing-copy": "hpZ: the old copy leaves a part of the secondary tensor unwritten",
}

_GATHERS = {
    "all_gather_coalesced",
    "_all_gather_coalesced",
    "_all_gather_sequential",
    "_all_gather_dtype",
    "_dist_allgather_fn",
    "_allgather_params_coalesced",
    "__all_gather_params_",
}
_SECONDARY_COPIES = {"_partition_param_sec"}
_STEP_COPIES = {
    "_reassign_or_swap_out_partitioned_parameters",
    "_unflatten_partitioned_parameters",
    "_release_sub_group",
}


def label_of(kind: str, first: Sequence[Place], second: Sequence[Place], names: Iterable[str]) -> str | None:
    """The name of a known fault whose functions are those of the finding; None for all others."""
    early = {place.function for place in first[:2]}
    late = {place.function for place in second}
    if kind == "unwritten-read":
        secondary = any("ds_secondary_tensor" in name for name in names)
        return "hpz-missing-copy" if secondary and {place.function for place in first} & _GATHERS else None
    if kind == "race" and late & _GATHERS and early & _SECONDARY_COPIES:
        return "hpz-secondary-copy"
    if kind == "race" and late & _GATHERS and early & _STEP_COPIES:
        return "step-partition-copy"
    return None


def json_schema() -> dict[str, Any]:
    return Report.model_json_schema()
