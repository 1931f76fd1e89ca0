"""The port of a run is nobody else's, and rank 0 listens there."""

from __future__ import annotations

import random
import socket
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from harness.system.ports import Port


@pytest.mark.parametrize("backend", [True, False], ids=["libuv", "sockets"])
def test_torchs_store_listens_at_a_port_that_is_held(backend: bool) -> None:
    with Port() as port:
        store = TCPStore("127.0.0.1", port.number, 1, True, timeout=timedelta(seconds=30), use_libuv=backend)
        store.set("word", "said")
        assert store.get("word") == b"said"


def test_nobody_else_gets_a_port_that_is_held() -> None:
    with Port() as port, socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port.number))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port.number))


def test_equal_seeds_do_not_choose_equal_ports() -> None:
    found = []
    for _ in range(4):
        random.seed(1)
        with Port() as port:
            found.append(port.number)
    assert len(set(found)) > 1
