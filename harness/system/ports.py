"""A TCP port for the ranks of one run to meet at."""

from __future__ import annotations

import random
import socket
from typing import Self

FROM, TO = (
    15000,
    32000,
)  # below the ephemeral range, of which any connection could take one before rank 0 listens
CHOOSE = random.SystemRandom()  # so that processes with equal seeds do not all choose the same


class Port:
    """A port of the loopback interface that nobody else gets before it is closed, but at which rank 0 may listen.

    It is bound without SO_REUSEADDR, so that nobody has it, and gets that option afterwards: a socket that sets it,
    too, as those of torch's TCPStore do, may then listen there, as long as this one does not (Linux, socket(7)).
    """

    def __init__(self) -> None:
        while True:
            self._socket = socket.socket()
            self.number = CHOOSE.randrange(FROM, TO)
            try:
                self._socket.bind(("127.0.0.1", self.number))
            except OSError:
                self._socket.close()
                continue
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return

    def close(self) -> None:
        """Give it back."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def free_port() -> int:
    """A port that is free now, for a server that would not share it with a reservation."""
    with Port() as port:
        return port.number
