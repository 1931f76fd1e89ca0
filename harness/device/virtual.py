"""The virtual device: streams over CPU kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from harness.device.collectives import TIMEOUT, Backend
from harness.device.counters import Counters
from harness.device.device import Device, DeviceKind
from harness.device.dispatch import Dispatcher
from harness.device.functions import Functions
from harness.device.handlers import HANDLERS, placed_tensors
from harness.device.host_threads import followed_threads
from harness.device.loaders import pinning_loaders
from harness.device.memory import DEVICE, Memory, on_device
from harness.device.observe import Observer
from harness.device.poison import parse_poison
from harness.device.resizing import resized_storages
from harness.device.saved import seen_packing
from harness.device.schedule import Eager, Policy
from harness.device.shown import shown
from harness.device.statistics import Statistics
from harness.device.streams import Machine, set_machine
from harness.device.threads import follow_threads
from harness.device.torch_private import around_reducers, limit_waits
from harness.device.virtual_collectives import VirtualBackend


class VirtualDevice(Device):
    """Virtual streams over CPU kernels: real values in any legal order."""

    kind: DeviceKind = "virtual"
    torch_device = DEVICE

    def __init__(self, policy: Policy | None = None, poison: str = "nan") -> None:
        super().__init__()
        self._policy = policy or Eager()
        self.machine = Machine()
        set_machine(self.machine)
        self.memory = self.machine.memory = Memory(self.machine, parse_poison(poison))
        self.functions = Functions(self.machine, self.memory, HANDLERS)
        self.dispatcher = Dispatcher(self.machine, self.memory, self.functions.placement)
        if shown.mapped:  # a program for CUDA expects statistics, and random numbers of the device's own
            from harness.device.as_cuda.random import device_generator

            self.memory.statistics, self.dispatcher.generator = Statistics(), device_generator

    def _wrap(self, inner: Any) -> Backend:
        limit_waits(TIMEOUT)
        if self.machine.collectives is None:
            return VirtualBackend(inner, self.machine)
        self.machine.collectives._inner = inner  # torch.distributed was there before deepspeed.comm
        return self.machine.collectives  # type: ignore[no-any-return]

    @contextmanager
    def activate(self) -> Iterator[None]:
        with ExitStack() as modes:
            modes.enter_context(placed_tensors())
            modes.enter_context(pinning_loaders())
            modes.enter_context(seen_packing())
            modes.enter_context(resized_storages(self.memory))
            modes.enter_context(followed_threads(self.machine))
            modes.enter_context(self.dispatcher)
            modes.enter_context(self.functions)
            yield
            self.machine.finish()

    @contextmanager
    def paused(self) -> Iterator[None]:
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

    def follow_threads(self) -> None:
        """Let Python's threads work on this device, too."""
        follow_threads(self.dispatcher, self.functions)

    def follow_data_parallel(self) -> None:
        """Let the buckets of DistributedDataParallel, which C++ makes, lie where its parameters do."""
        around_reducers(lambda tensors, *call: self.functions.asking(any(map(on_device, tensors)), *call))

    def wait_for_current(self, reason: str) -> None:
        """The host waits for the current stream."""
        self.machine.host_wait(self.machine.current, reason)

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
