"""What GPUs, nodes, networks and hosts can do, as profiles with their sources."""

from harness.hardware.profiles import (
    Card,
    Cluster,
    Gpu,
    Hardware,
    Host,
    Network,
    card_called,
    cards,
    cluster,
    find,
    find_card,
)

__all__ = [
    "Card",
    "Cluster",
    "Gpu",
    "Hardware",
    "Host",
    "Network",
    "card_called",
    "cards",
    "cluster",
    "find",
    "find_card",
]
