"""Starts some ranks of a program on this machine and hands back what each printed."""

from __future__ import annotations

import os
import subprocess
import sys

from harness.system.places import REPOSITORY
from harness.system.ports import Port


def run_ranks(words: list[str], world: int, seconds: float = 240, **variables: str) -> list[str]:
    """The output of each rank of `python -m WORDS`. Fails with the first rank's words that did not end well."""
    with Port() as port:
        return _run_ranks(str(port.number), words, world, seconds, variables)


def _run_ranks(
    port: str, words: list[str], world: int, seconds: float, variables: dict[str, str]
) -> list[str]:
    ranks = []
    for rank in range(world):
        place = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_SIZE": str(world),
        }
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-m", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=REPOSITORY,
                env=os.environ
                | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
                | place
                | variables,
            )
        )
    try:
        outputs = [rank.communicate(timeout=seconds)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, output in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, output
    return outputs
