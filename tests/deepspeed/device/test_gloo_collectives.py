"""What gloo lacks for GPU tensors is carried by what it has: the same calls on host memory, three real ranks."""

from __future__ import annotations

import pytest

from tests.gpu.ranks import run_ranks


@pytest.mark.slow
def test_every_collective_gives_its_value() -> None:
    for rank, output in enumerate(run_ranks(["tests.gpu.collective_ranks", "cpu"], world=3)):
        said = output.strip().splitlines()[-1].split()
        assert said[0] == "ok", output
        assert len(said) == (13 if rank == 0 else 11)
