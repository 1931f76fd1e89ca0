"""The byte counter of a network interface, and the variable that names the interface between the nodes."""

from __future__ import annotations

VARIABLE = "HPZ_WIRE_INTERFACE"  # names the interface between the nodes; set by harness.launch.slurm.task


def sent_bytes(net_dev: str, interface: str) -> int:
    """Bytes sent by an interface, from the text of /proc/net/dev. Raises KeyError where it does not exist."""
    for line in net_dev.splitlines():
        name, colon, counters = line.partition(":")
        if colon and name.strip() == interface:
            return int(counters.split()[8])
    raise KeyError(interface)
