"""Where a process stands in the world."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """Where this process stands in the world."""

    rank: int
    world_size: int

    @classmethod
    def from_environment(cls) -> Rank:
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
