"""The same cluster with its kernels, wires or host at the slow or the fast end of what is known of them (ranges.yaml).

Terms of a kind go together, so eight corners stand for all; four of them are run. Those hold the widest window of the
race (slow kernels, fast wires), the narrowest (the reverse), the dearest host (slow, with nothing to hide behind), and
a cluster that is slow throughout.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from harness.hardware import Cluster

RANGES = Path(__file__).with_name("ranges.yaml")


class Corner(NamedTuple):
    """Which kinds of terms are at their fast end; the others are at their slow one."""

    kernels: bool
    wires: bool
    host: bool


CORNERS = {
    "slow kernels": Corner(False, True, True),
    "slow wires": Corner(True, False, True),
    "slow host": Corner(True, True, False),
    "slow": Corner(False, False, False),
}


@cache
def ranges() -> dict[str, Any]:
    """Kind → term → its factors at the slow and at the fast end."""
    content: dict[str, Any] = yaml.safe_load(RANGES.read_text())
    return content


def at_corner(on: Cluster, network: str, corner: Corner) -> Cluster:
    """The cluster at a corner; `network` is the name of its profile."""
    known = ranges()
    begins = [name for name in known["networks"] if network.startswith(name)]
    of_network = known["networks"][max(begins, key=len) if begins else "infiniband"]
    gpu = _moved(_moved(on.gpu, known["kernels"], corner.kernels), known["wires"], corner.wires)
    return on.model_copy(
        update={
            "gpu": gpu,
            "network": _moved(on.network, of_network, corner.wires),
            "host": _moved(on.host, known["host"], corner.host),
        }
    )


def _moved(profile: Any, factors: dict[str, list[float]], fast: bool) -> Any:
    changed = {}
    for key, (slow_end, fast_end) in factors.items():
        value = getattr(profile, key) * (fast_end if fast else slow_end)
        changed[key] = min(1.0, value) if key.endswith("efficiency") else value
    return profile.model_copy(update=changed)
