"""Byte counters of this node's network interfaces: what the wire really carried, beside what was predicted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.system.interface import VARIABLE, sent_bytes
from harness.workload.gloo_bytes import wire_bytes


class WireMeter:
    """Measures a stretch of work between `start` and `stop`; without the variable it measures nothing."""

    def __init__(self, gloo: bool) -> None:
        self.interface, self.gloo = os.environ.get(VARIABLE), gloo
        self.before: int | None = None

    def start(self) -> None:
        self.before = self._sent()

    def stop(self, collectives: Mapping[Any, int], nodes: int, ranks_per_node: int) -> dict[str, int | None]:
        """The fields of a step record: bytes measured on the interface, and predicted (for gloo only)."""
        now = self._sent()
        if now is None or self.before is None:
            return {}
        predicted = wire_bytes(collectives, nodes, ranks_per_node) if self.gloo else None
        return {"wire_bytes": now - self.before, "wire_bytes_predicted": predicted}

    def _sent(self) -> int | None:
        if self.interface is None:
            return None
        try:
            return sent_bytes(Path("/proc/net/dev").read_text(), self.interface)
        except (KeyError, OSError):
            return None
