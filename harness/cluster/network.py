"""Nodes as network namespaces on two bridges: `mgmt` for SLURM, `data` for the ranks, the latter rate-limited.

All of it lives inside the cluster's own namespaces; nothing is left when their last process ends.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from harness.cluster.spec import (
    CONTROL_ADDRESS,
    CONTROL_INTERFACE,
    DATA_INTERFACE,
    control_address,
    data_address,
    link_rate,
)

BRIDGES = ("mgmt", "data")


def build_bridges() -> None:
    """Two switches in the management namespace; only SLURM's has an address there."""
    disable_ipv6(())
    ip(["link set lo up", *(f"link add {name} type bridge" for name in BRIDGES)])
    ip([f"addr add {CONTROL_ADDRESS}/24 dev mgmt", *(f"link set {name} up" for name in BRIDGES)])


def attach_node(index: int, holder: int) -> None:
    """Give the network namespace of process `holder` its two links."""
    inside = enter_node(holder)
    disable_ipv6(inside)
    for bridge, interface in zip(BRIDGES, (CONTROL_INTERFACE, DATA_INTERFACE), strict=True):
        port = f"{bridge}{index}"
        ip(
            [
                f"link add {port} type veth peer name {interface} netns {holder}",
                f"link set {port} master {bridge} up",
            ]
        )
    ip(
        [
            "link set lo up",
            f"addr add {data_address(index)}/24 dev {DATA_INTERFACE}",
            f"addr add {control_address(index)}/24 dev {CONTROL_INTERFACE}",
            # One packet a segment, so that the interface counts the bytes that a wire would carry.
            f"link set dev {DATA_INTERFACE} gso_max_segs 1 up",
            f"link set dev {CONTROL_INTERFACE} up",
        ],
        inside,
    )


def limit_command(holder: int, link: str | None) -> list[str]:
    """Command that sets the rate at which a node sends; what it receives is limited where it is sent.

    Nothing else limits the link, so that a job on the node may set it anew (`matrix.link` of a study).
    """
    return [*enter_node(holder), "tc", "qdisc", *shape_words(DATA_INTERFACE, link)]


def shape_words(interface: str, link: str | None) -> list[str]:
    """Words after `tc qdisc` that give an interface a rate; None lifts the limit."""
    rate = link_rate(link)
    if rate is None:
        return ["replace", "dev", interface, "root", "pfifo_fast"]
    burst = max(128 * 1024, int(rate / 8 / 1000))  # a millisecond's worth, so that the timer can keep up
    shape = ["tbf", "rate", f"{rate:.0f}bit", "burst", f"{burst}b", "latency", "50ms"]
    return ["replace", "dev", interface, "root", *shape]


def enter_node(holder: int) -> tuple[str, ...]:
    """Words before a command that run it inside a node."""
    return ("nsenter", f"--target={holder}", "--net", "--mount", "--uts", "--")


def disable_ipv6(inside: Sequence[str]) -> None:
    """Its neighbour discovery would add bytes to idle links."""
    files = [f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6" for name in ("all", "default")]
    script = "; ".join(f"test ! -e {file} || echo 1 > {file}" for file in files)
    subprocess.run([*inside, "sh", "-c", script], check=True)


def ip(lines: Sequence[str], inside: Sequence[str] = ()) -> None:
    """Run lines of `ip -batch`."""
    text = "\n".join(lines) + "\n"
    done = subprocess.run(
        [*inside, "ip", "-batch", "-"], input=text, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ip: {done.stderr.strip()} (in: {text.strip()})")
