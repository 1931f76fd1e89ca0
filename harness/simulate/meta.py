"""A device without memory: meta tensors in the place of the GPU's, the fake process group in the place of NCCL.

Real DeepSpeed, real autograd and real module code run unchanged, one process stands for any rank of any world, and
nothing is computed. What the host would read from the device is answered by constants: a finite loss and gradient
norm, no overflow. Streams, events and collectives are those of `harness.device`, so observers see the same calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

from harness.clock.products import Product
from harness.device.accelerator import VirtualAccelerator
from harness.device.arguments import tensors_of
from harness.device.collectives import Backend
from harness.device.memory import Memory, accesses, allocation_of
from harness.device.observe import Collective, OpKind, OpRecord
from harness.device.operators import Kind, Operator, describe
from harness.device.poison import parse_poison
from harness.device.schedule import Eager
from harness.device.streams import Machine, Stream
from harness.device.torch_private import PlainDispatchMode
from harness.device.virtual_collectives import VirtualBackend, Work

Tensor = torch.Tensor
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
META = torch.device("meta")


def _count_grouped_products() -> None:
    """Experts' products, which torch's own counter does not know; older torches have none."""
    if hasattr(torch.ops.aten, "_grouped_mm") and torch.ops.aten._grouped_mm not in flop_registry:
        register_flop_formula(torch.ops.aten._grouped_mm)(
            lambda a, b, *_, **__: 2 * a[-2] * a[-1] * b[-1]  # each row meets one of the matrices
        )


_count_grouped_products()


def product_of(name: str, args: Sequence[Any]) -> Product | None:
    """The matrix product that an operator computes; None for others."""
    if name not in PRODUCTS:
        return None
    left, right = args[-2:] if name in ("mm", "bmm") else args[1:3]
    batch = left.shape[0] if left.dim() == 3 else 1
    return Product(batch, left.shape[-2], left.shape[-1], right.shape[-1], left.itemsize)


class BusyDevice(Eager):
    """Everything is issued at once, but an event is pending until the host waits for it, as on a device that works.

    DeepSpeed then waits for an event where it would otherwise have found it passed; in time both are the same, as a
    wait for what has passed is free.
    """

    lags = True


class MetaAccelerator(VirtualAccelerator):
    """The virtual device's streams over meta tensors."""

    def __init__(self, ranks_per_node: int) -> None:
        super().__init__()
        self._name = "meta"
        self._communication_backend_name = "fake"
        self._ranks = ranks_per_node

    def device_name(self, device_index: int | None = None) -> str:
        return "meta"

    def current_device_name(self) -> str:
        return "meta"

    def device(self, device_index: int | None = None) -> torch.device:
        return META

    def device_count(self) -> int:
        return self._ranks

    def on_accelerator(self, tensor: Tensor) -> bool:
        return tensor.device.type == "meta"

    def is_bf16_supported(self) -> bool:
        return True

    def is_fp16_supported(self) -> bool:
        return True

    def pin_memory(self, tensor: Tensor, *_: object, **__: object) -> Tensor:
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cpu"


class MetaBackend(VirtualBackend):
    """Collectives leave their mark on the streams and move nothing."""

    def _perform(
        self, collective: Collective, reads: list[Tensor], writes: list[Tensor], call: Any, async_op: bool
    ) -> Any:
        if all(t.device.type == "cpu" for t in (*reads, *writes)):
            return None  # ranks telling each other host numbers: all are the same
        for tensor in (*reads, *writes):
            adopt(tensor)
        machine = self._machine
        if collective.group not in self._streams:
            self._streams[collective.group] = Stream()
        stream = self._streams[collective.group]
        stream.wait_event(machine.current.record_event())
        tell(machine, collective.op, "collective", stream, reads, writes, collective)
        count_as_done(machine, stream)
        work = Work(stream.record_event(), collective)
        return work if async_op else work.wait()

    def barrier(self, *args: Any, **kwargs: Any) -> Any:
        self._machine.host_wait(self._machine.current, "barrier")


def count_as_done(machine: Machine, stream: Stream) -> None:
    machine.next_op_index()
    stream.issued += 1
    stream.done += 1


_memory: Memory | None = None


def use_memory(machine: Machine) -> Memory:
    """Open the memory that marks meta storages."""
    global _memory
    _memory = Memory(machine, parse_poison("stale"))
    return _memory


def adopt(tensor: Tensor) -> None:
    """Give a meta tensor's storage its number, if it has none."""
    assert _memory is not None
    _memory.adopt(tensor)


def tell(
    machine: Machine,
    name: str,
    kind: OpKind,
    stream: Stream,
    reads: Sequence[Tensor],
    writes: Sequence[Tensor],
    collective: Collective | None = None,
) -> None:
    record = OpRecord(
        index=machine.ops,
        name=name,
        stream=stream.id,
        kind=kind,
        reads=accesses(reads),
        writes=accesses(writes),
        collective=collective,
    )
    for observer in machine.observers:
        observer.on_op(record)


class MetaDispatcher(PlainDispatchMode):
    """Tells the observers of each operator on meta tensors. `views` and `flops` are for the recorder to read."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine
        self.views = 0  # operators without device work since the recorder last looked
        self.flops = 0.0  # of the operator that is being told
        self.product: Product | None = None  # where it is one
        self.known_views: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.known_views:  # most calls at large world sizes: one slice a rank and parameter
            self.views += 1
            return func(*args, **kwargs) if kwargs else func(*args)
        operator, kwargs = describe(func), kwargs or {}
        if operator.name == "record_stream":
            return self._record_stream(*args)
        if operator.kind is Kind.METADATA:
            self.known_views.add(func)
            self.views += 1
            return func(*args, **kwargs)
        reads = [t for t in tensors_of((*args, *kwargs.values())) if t.device.type == "meta"]
        if operator.kind is Kind.READ and reads:
            return self._read(operator, func, args, kwargs, reads)
        if operator.name in ("_to_copy", "copy_"):
            return self._copy(operator, func, args, kwargs)
        out = func(*args, **kwargs)
        made = [
            t for t in tensors_of(out if isinstance(out, list | tuple) else (out,)) if t.device.type == "meta"
        ]
        if made or reads:
            self._issue(operator, func, args, kwargs, reads, made, out)
        else:
            self.views += 1
        return out

    def _issue(
        self,
        operator: Operator,
        func: Any,
        args: Any,
        kwargs: Any,
        reads: list[Tensor],
        made: list[Tensor],
        out: Any,
        kind: OpKind = "op",
    ) -> None:
        for tensor in (*reads, *made):
            if allocation_of(tensor) is None:
                adopt(tensor)
        if operator.kind is Kind.ALLOCATE:
            self.views += 1
            return
        count = flop_registry.get(func.overloadpacket)
        self.flops = float(count(*args, **kwargs, out_val=out)) if count else 0.0
        self.product = product_of(operator.name, args)
        written = tensors_of(args[i] for i in operator.written if i < len(args))
        written += tensors_of(kwargs[name] for name in operator.written_names if name in kwargs)
        fresh = [t for t in made if not any(t is w for w in written)] if operator.returns_fresh else []
        if operator.overwrites:
            reads = [t for t in reads if not any(t is w for w in written)]
        if operator.kind is Kind.CREATE:
            reads = []
        machine = self.machine
        if machine.observers:
            tell(machine, operator.name, kind, machine.current, reads, [*written, *fresh])
        count_as_done(machine, machine.current)

    def _read(self, operator: Operator, func: Any, args: Any, kwargs: Any, reads: list[Tensor]) -> Any:
        self._issue(operator, func, args, kwargs, reads, [], None, kind="copy")
        self.machine.host_wait(self.machine.current, f"read: {operator.name.strip('_')}")
        first = reads[0]
        if operator.name == "_local_scalar_dense":
            return 1.0 if first.is_floating_point() else (False if first.dtype == torch.bool else 0)
        if operator.name in ("equal", "is_nonzero"):
            return operator.name == "equal"
        raise NotImplementedError(f"{operator.name}: its result on a device without memory is not known")

    def _copy(self, operator: Operator, func: Any, args: Any, kwargs: Any) -> Any:
        """A copy inside the device, or across: then the host waits unless it asked not to."""
        making = operator.name == "_to_copy"
        source = args[0] if making else args[1]
        device = kwargs.get("device") or source.device if making else args[0].device
        here, there = source.device.type == "meta", torch.device(device).type == "meta"
        asynchronous = bool(kwargs.get("non_blocking") or (not making and len(args) > 2 and args[2]))
        if not here and not there:
            self.views += 1
            return func(*args, **kwargs)
        if here and there:
            out = func(*args, **kwargs)
        elif making:
            out = torch.empty_like(source, dtype=kwargs.get("dtype") or source.dtype, device=device)
        else:
            out = args[0]
        crossing: OpKind = "op" if here == there else "copy"
        reads, made = [t for t in (source,) if here], [t for t in (out,) if there]
        if not making and there:
            reads.append(out)
        self._issue(operator, func, args if here == there else (), kwargs, reads, made, out, crossing)
        if here != there and not asynchronous:
            self.machine.host_wait(self.machine.current, f"copy {'to' if here else 'from'} pageable memory")
        return out

    def _record_stream(self, tensor: Tensor, stream: Any) -> None:
        """Torch hands the stream over as one of its own; what is left of ours is its number."""
        allocation = allocation_of(tensor)
        if allocation is not None:
            for observer in self.machine.observers:
                observer.on_record_stream(allocation.id, stream.stream_id)


def _for_meta(ask: Callable[[Any], Any], plain: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda device="cpu": ask(plain(device))


@contextmanager
def autocast_knows_meta() -> Iterator[None]:
    """Inside, autocast's helpers answer for `meta` as they do for `cpu`: they refuse the device type otherwise."""

    def plain(device: Any) -> Any:
        return "cpu" if str(device).startswith("meta") else device

    autocast = torch.amp.autocast_mode.autocast
    dtype, enabled, init = torch.get_autocast_dtype, torch.is_autocast_enabled, autocast.__init__

    def known_init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        init(self, plain(device_type), *args, **kwargs)

    torch.get_autocast_dtype = _for_meta(dtype, plain)
    torch.is_autocast_enabled = _for_meta(enabled, plain)
    autocast.__init__ = known_init  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.get_autocast_dtype, torch.is_autocast_enabled = dtype, enabled
        autocast.__init__ = init  # type: ignore[method-assign]


def connect(machine: Machine) -> None:
    """Wrap DeepSpeed's communication backend; call it after deepspeed.init_distributed."""
    from deepspeed.comm import comm

    if not isinstance(comm.cdb, Backend):
        comm.cdb = MetaBackend(comm.cdb, machine)
