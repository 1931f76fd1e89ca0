"""The three devices that a rank can train on, behind one interface: `cpu`, `virtual` and `cuda`."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
from harness.errors import HarnessError

DeviceKind = Literal["cpu", "virtual", "cuda"]


def open_process_device(kind: str) -> None:
    """Install DeepSpeed's accelerator for this process and those that it forks; safe to repeat.

    Must come before DeepSpeed's engine is imported. Raises HarnessError for an unknown kind and for `cuda` on a
    machine without a GPU.
    """
    if kind not in ("cpu", "virtual", "cuda"):
        raise HarnessError(f"device {kind!r} is not known; use cpu, virtual or cuda")
    if kind == "cuda":
        # No CUDA call here: a context made before a fork cannot be used after it.
        if torch.version.cuda is None:
            raise HarnessError("device cuda: this torch was built without CUDA; use device: virtual or cpu")
        os.environ["DS_ACCELERATOR"] = "cuda"
        return
    os.environ["DS_ACCELERATOR"] = "cpu"
    if kind == "virtual":
        from harness.device.accelerator import install

        install()
    import deepspeed.ops

    # DeepSpeed would compile it on the first init_distributed, and fail without a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def open_device(kind: str, *, policy: str = "eager", poison: str = "nan", seed: int = 0) -> Device:
    """The device of this rank. `policy`, `poison` and `seed` (of random policies) matter on `virtual` alone.

    Raises HarnessError for names that are not known, and for `cuda` without a GPU.
    """
    open_process_device(kind)
    if kind == "virtual":
        return VirtualDevice(policy, poison, seed)
    return CudaDevice() if kind == "cuda" else Device()


class Device:
    """Plain CPU: DeepSpeed's own accelerator; collectives are counted."""

    kind: DeviceKind = "cpu"
    backend = "gloo"
    torch_device = torch.device("cpu")

    def __init__(self) -> None:
        self._backend: Backend | None = None

    def connect(self) -> None:
        """Wrap DeepSpeed's communication backend. Call it after deepspeed.init_distributed, before initialize."""
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

    def counters(self) -> Counters:
        """What was counted so far."""
        return Counters(collectives=self._collectives())

    def _collectives(self) -> dict[Any, int]:
        return dict(self._backend.counted) if self._backend else {}

    def observe(self, observer: Observer) -> None:
        raise HarnessError(f"device {self.kind} cannot be observed; use device: virtual")


class CudaDevice(Device):
    """A real GPU; ranks that share one speak through gloo, ranks with one each through NCCL."""

    kind: DeviceKind = "cuda"

    def __init__(self) -> None:
        super().__init__()
        if not torch.cuda.is_available():
            raise HarnessError("device cuda: no GPU is visible here; use device: virtual or cpu")
        local_rank, ranks = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_SIZE", "1"))
        gpus = torch.cuda.device_count()
        self.backend = "nccl" if ranks <= gpus else "gloo"
        self.torch_device = torch.device("cuda", local_rank % gpus)
        torch.cuda.set_device(self.torch_device)


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
