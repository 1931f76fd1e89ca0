"""A TCP port for the ranks of one run to meet at."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port() -> int:
    """A TCP port of the loopback interface that is free now, and that the system will not give to someone else.

    Ports of the ephemeral range could be taken by any connection, gloo's among them, before rank 0 listens.
    """
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
