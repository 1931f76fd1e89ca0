"""What GPUs, nodes, networks and hosts can do, as profiles with their sources."""

from harness.hardware.profiles import Cluster, Gpu, Hardware, Host, Network, cluster, find

__all__ = [
    "Cluster",
    "Gpu",
    "Hardware",
    "Host",
    "Network",
    "cluster",
    "find",
]
