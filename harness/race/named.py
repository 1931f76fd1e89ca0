"""The names of the memory that findings are about, also where the name is only met in a later one."""

from __future__ import annotations

from harness.race.findings import Finding
from harness.race.memory import Footprint, overlap

UNNAMED = "unnamed buffer"
Open = tuple[Finding, int | None, Footprint]  # a finding, which of its cases if kept, and the bytes


class Named:
    """What each storage was called. Pieces of one storage may belong to several: bytes must meet."""

    def __init__(self) -> None:
        self.known: dict[int, dict[str, Footprint]] = {}
        self.open: dict[int, list[Open]] = {}

    def name(self, storage: int, view: Footprint, name: str | None, found: Finding, case: int | None) -> str:
        """The name of a case's memory: as it was looked up, else as it was before, else as it will be."""
        if name is None:
            before = self.known.get(storage, {})
            name = next((known for known, its in before.items() if overlap(its, view)), None)
            if name is None:
                self.open.setdefault(storage, []).append((found, case, view))
            return name or UNNAMED
        if self.known.setdefault(storage, {}).setdefault(name, view) is view:
            self._name_earlier(storage, view, name)
        return name

    def _name_earlier(self, storage: int, view: Footprint, name: str) -> None:
        still: list[Open] = []
        for found, case, its in self.open.pop(storage, ()):
            if not overlap(its, view):
                still.append((found, case, its))
                continue
            found.names[UNNAMED] -= 1
            found.names[name] += 1
            if not found.names[UNNAMED]:
                del found.names[UNNAMED]
            if case is not None:
                found.cases[case] = found.cases[case]._replace(name=name)
        if still:
            self.open[storage] = still
