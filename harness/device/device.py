"""The three devices that a rank can train on, behind one interface: `cpu`, `virtual` and `cuda`."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch

from harness.device.collectives import TIMEOUT, Backend, VirtualBackend
from harness.device.counters import Counters
from harness.device.dispatch import Dispatcher
from harness.device.functions import Functions, placed_tensors
from harness.device.memory import DEVICE, Memory
from harness.device.observe import Observer
from harness.device.poison import parse_poison
from harness.device.policies import parse_policy
from harness.device.streams import Machine, set_machine
from harness.system.errors import HarnessError

DeviceKind = Literal["cpu", "virtual", "cuda"]


def open_process_device(kind: str) -> None:
    """Install DeepSpeed's accelerator for this process and those that it forks; safe to repeat.

    Must come before DeepSpeed's engine is imported. Raises HarnessError for an unknown kind and for `cuda` on a
    machine without a GPU.
    """
    if kind not in ("cpu", "virtual", "cuda"):
        raise HarnessError(f"device {kind!r} is not known; use cpu, virtual or cuda")
    if kind == "cuda":
        from harness.device.cuda import prepare_process

        prepare_process()
        return
    os.environ["DS_ACCELERATOR"] = "cpu"
    if kind == "virtual":
        from harness.device.accelerator import install

        install()
    import deepspeed.ops

    # DeepSpeed would compile it on the first init_distributed, and fail without a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def cuda_was_started(load: Callable[[str], Any] = ctypes.CDLL) -> bool:
    """Whether anything in this process has started CUDA, so that processes forked from it can never use it.

    Asks the driver for the number of GPUs, which it refuses to say before cuInit (CUDA_ERROR_NOT_INITIALIZED, 3).
    """
    try:
        driver = load("libcuda.so.1")
    except OSError:
        return False
    return int(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))) != 3


def open_device(
    kind: str,
    *,
    policy: str = "eager",
    poison: str = "nan",
    seed: int = 0,
    stall_us: int = 0,
    one_gpu: bool = False,
) -> Device:
    """The device of this rank. `policy`, `poison` and `seed` (of random policies) matter on `virtual` alone.

    On `cuda` alone, `stall_us` holds the compute stream for so many microseconds before each copy on the device, and
    `one_gpu` lets all ranks share the first GPU, however many there are.

    Raises HarnessError for names that are not known, and for `cuda` without a GPU.
    """
    open_process_device(kind)
    if kind == "virtual":
        return VirtualDevice(policy, poison, seed)
    if kind == "cuda":
        from harness.device.cuda import CudaDevice

        return CudaDevice(stall_us, one_gpu)
    return Device()


class Device:
    """Plain CPU: DeepSpeed's own accelerator; collectives are counted."""

    kind: DeviceKind = "cpu"
    backend = "gloo"
    torch_device = torch.device("cpu")

    def __init__(self) -> None:
        self._backend: Backend | None = None

    def rendezvous(self) -> None:
        """Join the other ranks, as the environment names them."""
        import deepspeed

        deepspeed.init_distributed(dist_backend=self.backend, verbose=False)

    def connect(self) -> None:
        """Wrap DeepSpeed's communication backend. Call it after `rendezvous`, before initialize."""
        from deepspeed.comm import comm

        if not isinstance(comm.cdb, Backend):
            # deepspeed.comm calls whatever object stands here; there is no function to set it.
            comm.cdb = self._wrap(comm.cdb)
        self._backend = comm.cdb

    def _wrap(self, inner: Any) -> Backend:
        return Backend(inner)

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Inside, torch runs on this device."""
        yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, every op runs when it is issued, as suits host work such as writing a checkpoint."""
        yield

    def use_policy(self) -> None:
        """Order ops by the policy from now on; until then they run as issued."""

    def synchronize(self) -> None:
        from deepspeed.accelerator import get_accelerator

        get_accelerator().synchronize()

    def mark(self) -> Any:
        """A moment of the compute stream: `later(earlier)` is the seconds between two, once both have passed.

        None where the device has no clock of its own.
        """
        return None

    def counters(self) -> Counters:
        """What was counted so far."""
        return Counters(collectives=self._collectives())

    def _collectives(self) -> dict[Any, int]:
        return dict(self._backend.counted) if self._backend else {}

    def observe(self, observer: Observer) -> None:
        raise HarnessError(f"device {self.kind} cannot be observed; use device: virtual")


class VirtualDevice(Device):
    """Virtual streams over CPU kernels: real values in any legal order."""

    kind: DeviceKind = "virtual"
    torch_device = DEVICE

    def __init__(self, policy: str, poison: str, seed: int) -> None:
        super().__init__()
        self._policy = parse_policy(policy, seed)
        self.machine = Machine()
        set_machine(self.machine)
        self.memory = Memory(self.machine, parse_poison(poison))
        self.functions = Functions(self.machine, self.memory)
        self.dispatcher = Dispatcher(self.machine, self.memory, self.functions.placement)

    def _wrap(self, inner: Any) -> Backend:
        torch.distributed.distributed_c10d._set_pg_timeout(TIMEOUT)
        return VirtualBackend(inner, self.machine)

    @contextmanager
    def activate(self) -> Iterator[None]:
        with ExitStack() as modes:
            modes.enter_context(placed_tensors())
            modes.enter_context(self.dispatcher)
            modes.enter_context(self.functions)
            yield
            self.machine.finish()

    @contextmanager
    def paused(self) -> Iterator[None]:
        from harness.device.policies import Eager

        policy = self.machine.policy
        self.machine.use_policy(Eager())
        try:
            yield
        finally:
            self.machine.use_policy(policy)

    def use_policy(self) -> None:
        self.machine.use_policy(self._policy)

    def synchronize(self) -> None:
        self.machine.synchronize()

    def counters(self) -> Counters:
        machine = self.machine
        return Counters(
            ops=machine.ops,
            events_recorded=machine.events_recorded,
            stream_waits=machine.stream_waits,
            host_syncs=dict(machine.host_syncs),
            collectives=self._collectives(),
        )

    def observe(self, observer: Observer) -> None:
        """Tell the observer of everything from now on."""
        self.machine.observers.append(observer)
