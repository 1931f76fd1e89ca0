"""Storages that a program frees and takes again in place, as FSDP does its parameters."""

from __future__ import annotations

import pytest
import torch

from harness.device.observe import Observer, OpRecord
from harness.device.streams import Stream, machine
from harness.device.virtual import VirtualDevice
from tests.unit.device.test_streams_tensors import DEVICE, POLICIES, on


class Lives(Observer):
    """Which storages were handed out and given back, and which each op reads."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def on_alloc(self, storage: int, nbytes: int, stream: int, written: bool) -> None:
        self.words.append(f"{nbytes} bytes for {storage}")

    def on_free(self, storage: int) -> None:
        self.words.append(f"{storage} freed")

    def on_op(self, op: OpRecord) -> None:
        self.words.append(f"{op.name} reads {[access.storage for access in op.reads]}")


def resize(tensor: torch.Tensor, nbytes: int) -> None:
    tensor.untyped_storage().resize_(nbytes)


def test_a_storage_says_the_size_that_it_was_given() -> None:
    with on("eager"):
        x = torch.ones(4, device=DEVICE)
        sizes = []
        for nbytes in (0, 16, 64):
            resize(x, nbytes)
            sizes.append((x.untyped_storage().nbytes(), x.untyped_storage().size()))
    assert sizes == [(0, 0), (16, 16), (64, 64)]


def test_host_memory_is_resized_as_torch_does_it() -> None:
    with on("eager"):
        x = torch.ones(4)
        resize(x, 0)
        assert x.untyped_storage().data_ptr() == 0


def test_taken_again_it_is_other_memory() -> None:
    with on("eager") as device:
        lives = Lives()
        device.observe(lives)
        x = torch.ones(4, device=DEVICE)
        resize(x, 0)
        resize(x, 16)
        x.add_(1)
        device.machine.observers.remove(lives)
    assert lives.words == [
        "16 bytes for 0",
        "ones reads []",
        "0 bytes for 1",
        "0 freed",
        "16 bytes for 2",
        "1 freed",
        "add_ reads [2]",
    ]


def freed_and_filled_again(device: VirtualDevice) -> list[float]:
    """Every op is on one stream, as CUDA's allocator asks of memory that is not recorded elsewhere."""
    x = torch.ones(4, device=DEVICE)
    doubled = x * 2
    resize(x, 0)
    resize(x, 16)
    x.fill_(7)
    return [*doubled.tolist(), *x.tolist()]


@pytest.mark.parametrize("poison", ["nan", "stale"])
@pytest.mark.parametrize("policy", POLICIES)
def test_ops_that_were_issued_before_still_find_what_was_there(policy: str, poison: str) -> None:
    with on(policy, poison) as device:
        assert freed_and_filled_again(device) == [2] * 4 + [7] * 4


def read_late(recorded: bool) -> list[float]:
    """What a side stream reads of a storage that is freed, taken again and filled before it has run."""
    with on("main-first"):
        side, x = Stream(), torch.full((8,), 1.0, device=DEVICE)
        side.wait_stream(machine().current)
        with side:
            seen = x + 0
        if recorded:
            x.record_stream(side)
        resize(x, 0)
        resize(x, 32)
        x.fill_(5)
        side.synchronize()
        return seen.tolist()  # type: ignore[no-any-return]


def test_it_is_handed_out_under_the_ops_that_still_use_it_unless_their_stream_was_recorded() -> None:
    assert read_late(recorded=False) == [5.0] * 8
    assert read_late(recorded=True) == [1.0] * 8


def test_another_streams_pool_gives_other_memory() -> None:
    with on("side-first"):
        side, x = Stream(), torch.full((8,), 1.0, device=DEVICE)
        seen = x + 0
        resize(x, 0)
        with side:
            resize(x, 32)
            x.fill_(5)
        assert seen.tolist() == [1.0] * 8
