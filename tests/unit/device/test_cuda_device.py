"""The GPU device up to its first CUDA call: shares and backends, refusals, stalls, timed waits. No GPU needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from harness.device.cuda import Share, WatchedStream, share
from harness.device.errors import DeviceError
from harness.device.gloo import GlooBackend
from harness.device.opening import cuda_was_started, open_process_device
from harness.device.stall import StallCopies, cycles_per_microsecond
from harness.system.errors import HarnessError
from tests.gloo_world import world_of_one


def test_ranks_that_share_a_gpu_use_gloo_and_a_fraction_of_its_memory() -> None:
    shares = [share(rank, local_size=4, gpus=1) for rank in range(4)]
    assert shares == [Share(0, "gloo", pytest.approx(0.225))] * 4


def test_ranks_with_a_gpu_each_use_nccl() -> None:
    assert [share(rank, local_size=4, gpus=8) for rank in range(4)] == [
        Share(r, "nccl", None) for r in range(4)
    ]


def test_an_uneven_share_is_that_of_the_fullest_gpu() -> None:
    shares = [share(rank, local_size=3, gpus=2) for rank in range(3)]
    assert [one.gpu for one in shares] == [0, 1, 0]
    assert [one.memory_fraction for one in shares] == pytest.approx([0.45] * 3)


def test_no_gpu_is_said_in_one_sentence() -> None:
    with pytest.raises(HarnessError, match="no GPU is visible here; use device: virtual or cpu"):
        share(0, local_size=4, gpus=0)


def test_a_torch_without_cuda_is_refused_before_anything_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(HarnessError, match="this torch was built without CUDA"):
        open_process_device("cuda")
    assert os.environ["DS_ACCELERATOR"] == "cpu"


@pytest.mark.parametrize(("answer", "started"), [(3, False), (0, True)])
def test_the_driver_says_whether_cuda_was_started(answer: int, started: bool) -> None:
    driver = SimpleNamespace(cuDeviceGetCount=lambda count: answer)
    assert cuda_was_started(lambda name: driver) is started


def test_without_a_driver_nothing_was_started() -> None:
    def absent(name: str) -> Any:
        raise OSError(name)

    assert cuda_was_started(absent) is False


@pytest.fixture
def gloo() -> Iterator[GlooBackend]:
    with world_of_one():
        yield GlooBackend(dist)


def test_what_gloo_cannot_do_on_a_gpu_is_refused_by_name(gloo: GlooBackend) -> None:
    with pytest.raises(DeviceError, match=r"deepspeed\.comm\.isend on GPU memory: .* a GPU of its own"):
        gloo.isend(torch.empty(1, device="meta"), 0)


def test_a_coalesced_gather_is_one_gather_each(gloo: GlooBackend) -> None:
    outputs = [torch.empty(2), torch.empty(3)]
    work = gloo.all_gather_coalesced(outputs, [torch.ones(2), torch.full((3,), 2.0)], async_op=True)
    assert work is not None
    work.wait()
    assert [out.tolist() for out in outputs] == [[1, 1], [2, 2, 2]]
    assert sum(gloo.counted.values()) == 2


class Held:
    """A compute stream on paper: what was issued to it, delays and copies, in order."""

    def __init__(self, current: bool = True) -> None:
        self.delays: list[int] = []
        self.mode = StallCopies(
            299.6, hold=self.delays.append, on_compute=lambda: current, on_device=lambda value: True
        )


def test_each_copy_into_existing_memory_is_held_up_on_the_compute_stream() -> None:
    held, target = Held(), torch.zeros(8)
    with held.mode:
        target.narrow(0, 2, 4).copy_(torch.ones(4))
        target[:2] = torch.ones(2)
        torch._foreach_copy_([target], [2 * torch.ones(8)])
        _ = target + 1
        _ = target.clone()
    assert held.delays == [300] * 3
    assert held.mode.stalls == 3
    assert target.tolist() == [2] * 8


def test_copies_on_other_streams_are_not() -> None:
    held = Held(current=False)
    with held.mode:
        torch.zeros(2).copy_(torch.ones(2))
    assert held.delays == []


def test_copies_from_or_to_the_host_are_not() -> None:
    delays: list[int] = []
    with StallCopies(10, hold=delays.append, on_compute=lambda: True):  # all memory here is the host's
        torch.zeros(2).copy_(torch.ones(2))
    assert delays == []


def test_a_stall_reaches_the_backward_pass_and_changes_no_value() -> None:
    class CopyBack(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            return torch.empty_like(grads[0]).copy_(2 * grads[0])

    held, x = Held(), torch.ones(3, requires_grad=True)
    with held.mode:
        CopyBack.apply(x).sum().backward()
    assert held.mode.stalls >= 1
    assert x.grad is not None and x.grad.tolist() == [2] * 3


def test_calibration_takes_the_shortest_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.9, 0.5, 0.7, 0.6, 0.8])  # milliseconds of a million cycles

    class Event:
        def __init__(self, enable_timing: bool) -> None: ...
        def record(self) -> None: ...
        def synchronize(self) -> None: ...
        def elapsed_time(self, other: Event) -> float:
            return next(times)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None, raising=False)
    assert cycles_per_microsecond() == pytest.approx(2000)


def test_a_watched_stream_is_torchs_own() -> None:
    assert issubclass(WatchedStream, torch.cuda.Stream)  # so that record_stream and events take it


def test_a_wait_is_counted_with_the_line_that_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.device import cuda

    waits = cuda.HostWaits()

    def synchronize() -> None:
        with waits.timed("stream"):
            pass

    synchronize()
    ((reason, line),) = waits.times
    assert reason == "stream" and line.startswith("unit/device/test_cuda_device.py:")
    assert waits.seconds >= 0


class Moment:
    """A CUDA event on paper: half a millisecond lies between any two."""

    def __init__(self, enable_timing: bool = False) -> None: ...
    def record(self, *_: object) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, other: Moment) -> float:
        return 0.5


def test_a_rank_that_shares_the_first_gpu_is_set_up_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.device import cuda

    calls: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)  # the others are left alone
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *words: calls.append(words))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None, raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Moment)
    monkeypatch.setattr(cuda, "repeatable", lambda: calls.append("repeatable"))
    for name, value in {"LOCAL_RANK": "3", "LOCAL_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    device = cuda.CudaDevice(stall_us=300, one_gpu=True)
    first = torch.device("cuda", 0)
    assert calls == [first, (pytest.approx(0.225), first), "repeatable"]
    assert (device.backend, device.torch_device) == ("gloo", first)
    assert os.environ["LOCAL_RANK"] == "0"  # which DeepSpeed takes for the index of a GPU
    assert device._stalls is not None and device._stalls.cycles == 600_000  # at 2,000 a microsecond
    earlier, later = device.mark(), device.mark()
    assert later(earlier) == 5e-4
    assert device.counters().host_blocked_seconds is not None


def test_waits_of_the_compute_stream_are_timed_and_those_of_other_streams_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from harness.device import cuda

    class Stream:
        def __init__(self, stream_id: int) -> None:
            self.stream_id = stream_id

    monkeypatch.setattr(torch.cuda, "Event", Moment)
    waits = cuda.ComputeWaits()
    for listens, stream_id in ((False, 0), (True, 7), (True, 0)):
        waits.opened = listens
        with waits.around(Stream(stream_id)):  # type: ignore[arg-type]
            pass
    ((before, after),) = waits.waits
    assert after(before) == 5e-4


def test_where_each_rank_has_a_gpu_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.device import cuda

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for name, value in {"LOCAL_RANK": "3", "LOCAL_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    device = cuda.CudaDevice()
    assert (device.backend, str(device.torch_device), os.environ["LOCAL_RANK"]) == ("nccl", "cuda:3", "3")
    with device.activate():
        pass
