"""The dispatch mode of the virtual device: turns each ATen operator on device memory into an op on a stream.

Operators on host memory alone run at once and never wait. Where CUDA makes the host wait (`.item()`, shapes that
depend on data, copies from or to pageable memory) the host waits for the current stream, and for nothing else (CUDA
Runtime API, "API synchronization behavior").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from harness.device.arguments import map_tensors, tensors_of, written
from harness.device.c10d import flat
from harness.device.composed import kernel_of
from harness.device.deferred import Deferred, drawing_from, generator_state
from harness.device.errors import DeviceError, MixedDevices
from harness.device.memory import DEVICE, Memory, is_pinned, names_device, on_device
from harness.device.observe import HOST, OpKind
from harness.device.operators import Kind, Operator, describe
from harness.device.poison import alias
from harness.device.records import tell_op
from harness.device.results import Results
from harness.device.shown import shown
from harness.device.streams import Machine
from harness.device.subclasses import is_made_of_others, is_shape_alone
from harness.device.torch_private import PlainDispatchMode, current_node, functions_off
from harness.device.virtual_collectives import VirtualBackend

Tensor = torch.Tensor
COPY = torch.ops.aten.copy_.default
TO_HOST = replace(describe(COPY), name="_to_copy")


class Dispatcher(PlainDispatchMode):
    """See the module. `placement` answers whether the Python call in progress asked for the host by name."""

    def __init__(self, machine: Machine, memory: Memory, placement: Callable[[], bool | None]) -> None:
        super().__init__()
        self.machine, self.memory, self.placement = machine, memory, placement
        self.results = Results(memory)
        self.generator: torch.Generator | None = None  # the device's own; None: it shares the host's
        self.treat: dict[Kind, Callable[[Operator, Any, tuple[Any, ...], dict[str, Any]], Any]] = {
            Kind.ALLOCATE: self._allocate,
            Kind.CREATE: self._create,
            Kind.TO: self._to,
            Kind.COPY: self._copy,
            Kind.READ: self._read,
            Kind.INDEX: self._index,
            Kind.COMPUTE: self._compute,
            Kind.RESIZE: self._resize,
            Kind.COLLECTIVE: self._collective,
            Kind.COMPOSED: self._composed,
            Kind.UNKNOWN: self._unknown,
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if types and any(map(is_made_of_others, types)):
            return NotImplemented  # its own dispatch then calls operators on those, which come here
        if types and any(map(is_shape_alone, types)):
            return func(*args, **(kwargs or {}))
        if kwargs and shown.mapped and names_device(kwargs.get("device") or "cpu"):
            kwargs = {**kwargs, "device": DEVICE}  # by code that torch calls with function modes off
        operator = describe(func)
        if operator.kind is Kind.METADATA:
            return func(*args, **kwargs) if kwargs else func(*args)
        with functions_off():
            return self.treat[operator.kind](operator, func, args, kwargs or {})

    # ---- making memory

    def _wants_device(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Where a new tensor goes. An index names the device; a call from inside torch (an autograd formula, a

        composite kernel) inherits from its input or, having none, belongs to the backward pass that it is part of.
        """
        device = kwargs.get("device")
        if device is not None and (device.index is not None or device.type != "cpu"):
            return bool(device.type == "cpu")
        asked = self.placement()
        if asked is not None:
            return asked
        given = tensors_of(args[:1])
        return all(map(on_device, given)) if given else current_node() is not None

    def _allocate(self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._wants_device(args, kwargs):
            return self.memory.refill(func(*args, **kwargs))
        return self._make_on_host(func, args, kwargs)

    def _create(self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._wants_device(args, kwargs):
            return self._issue(operator, func, args, kwargs, reads=())
        return self._make_on_host(func, args, kwargs)

    def _make_on_host(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Torch refuses to pin without a real accelerator."""
        if not kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        return self.memory.pin(func(*args, **{**kwargs, "pin_memory": False}))

    # ---- copies

    def _to(self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source, device = args[0], kwargs.get("device")
        if device is not None and device.type == "meta":
            return func(*args, **kwargs)  # a shape alone: nothing is read
        here = on_device(source)
        there = here if device is None else self._wants_device(args, kwargs)
        if here and there:
            return self._compute(operator, func, args, kwargs)
        if not here and not there:
            return self._on_host(operator, func, args, kwargs)
        asynchronous = bool(kwargs.get("non_blocking"))
        if there:
            out = self._issue(operator, func, args, kwargs, reads=(source,), kind="copy")
            self._wait_unless(asynchronous and is_pinned(source), "copy from pageable memory")
            return out
        # PyTorch gives a non-blocking copy to the host a pinned destination.
        out = func(torch.empty_like(source), **kwargs)
        if asynchronous:
            self.memory.pin(self.memory.poison.fill(out))
        self._issue(TO_HOST, COPY, (out, source), {}, reads=(source,), kind="copy")
        self._wait_unless(asynchronous, "copy to pageable memory")
        if not asynchronous:
            self.machine.reader(out)
        return out

    def _copy(self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target, source = args[0], args[1]
        here, there = on_device(source), on_device(target)
        if not here and not there:
            return self._on_host(operator, func, args, kwargs)
        asynchronous = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        if here == there:
            return self._issue(operator, func, args, kwargs, reads=(source,))
        self._issue(operator, func, args, kwargs, reads=(source,), kind="copy")
        host = target if here else source
        asynchronous = asynchronous and is_pinned(host)
        self._wait_unless(asynchronous, f"copy {'to' if here else 'from'} pageable memory")
        if here and not asynchronous:
            self.machine.reader(target)
        return target

    def _wait_unless(self, asynchronous: bool, reason: str) -> None:
        if not asynchronous:
            self.machine.host_wait(self.machine.current, reason)

    # ---- computing

    def _compute(self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = tensors_of((*args, *kwargs.values()) if kwargs else args)
        where = [on_device(t) for t in tensors]
        if not any(where):
            return self._on_host(operator, func, args, kwargs)
        if not all(where):
            args, kwargs = self._scalars_from_host(operator, tensors, args, kwargs)
            tensors = [t for t, device in zip(tensors, where, strict=True) if device]
        if operator.scales_first and kwargs.get("beta", 1) == 0:
            tensors = [t for t in tensors if t is not args[0]]
        return self._issue(operator, func, args, kwargs, reads=tensors)

    def _scalars_from_host(
        self, operator: Operator, tensors: list[Tensor], args: Any, kwargs: Any
    ) -> tuple[Any, Any]:
        """As with CUDA, a host scalar may take part; its value is taken when the op is issued."""
        host = [t for t in tensors if not on_device(t)]
        if any(t.dim() for t in host) or any(
            any(t is w for w in host) for t in written(operator, args, kwargs)
        ):
            raise MixedDevices(
                f"{operator.name}: expected all tensors to be on the same device, but found cpu and cpu:0"
            )
        self._tell_host(operator, host, ())
        return map_tensors(lambda t: t if on_device(t) else t.clone(), args, kwargs)

    def _read(self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run after all that the current stream holds; then the host waits for it."""
        reads = [t for t in tensors_of((*args, *kwargs.values())) if on_device(t)]
        if not reads:
            return self._on_host(operator, func, args, kwargs)
        stream = self.machine.current
        self.machine.run_until(stream, stream.issued)
        out = self._run_now(operator, func, args, kwargs, reads, "op")
        self.machine.host_wait(stream, f"read: {operator.name.strip('_')}")
        self.machine.reader(tuple(out.size()) if isinstance(out, Tensor) else out)
        return out

    def _index(self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Indexing waits where a mask must be counted first. Indices may lie on the host and are then sent over."""
        indices = args[1]
        if not on_device(args[0]):
            if any(on_device(t) for t in tensors_of(args)):
                raise MixedDevices(f"{operator.name}: device indices or values with a host tensor")
            return self._on_host(operator, func, args, kwargs)
        if any(t is not None and not on_device(t) for t in indices):
            self._tell_host(operator, tensors_of(indices), ())
            self._wait_unless(False, "copy from pageable memory")
            indices = [t if t is None or on_device(t) else t.clone() for t in indices]
            for tensor in tensors_of(indices):
                self.memory.adopt(tensor)
            args = (args[0], indices, *args[2:])
        if any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in indices):
            return self._read(operator, func, args, kwargs)
        return self._compute(operator, func, args, kwargs)

    def _resize(self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if on_device(args[0]):
            self.machine.finish()  # the content may move; running early is always legal
        return func(*args, **kwargs)

    def _collective(
        self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if any(on_device(t) for t in flat(args)):
            backend = self.machine.collectives or VirtualBackend(None, self.machine)
            return backend.operator(func, operator.name, args)
        self.machine.finish()  # deferred collectives of the same group go first on every rank
        return self._on_host(operator, func, args, kwargs)

    def _composed(self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not any(map(on_device, flat((*args, *kwargs.values())))):
            return self._on_host(operator, func, args, kwargs)
        with self:
            return kernel_of(func)(*args, **kwargs)

    def _unknown(self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(on_device(t) for t in tensors_of((*args, *kwargs.values()))):
            raise DeviceError(
                f"{func}: not known whether this operator waits for the device or what it writes, so it cannot "
                "be deferred; move its inputs to the host first"
            )
        return self._on_host(operator, func, args, kwargs)

    # ---- on the host

    def _on_host(self, operator: Operator, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Host memory alone takes part: run at once, and wait for nothing."""
        reads = tensors_of((*args, *kwargs.values())) if self.memory.pinned else ()
        if reads:
            self._tell_host(operator, reads, written(operator, args, kwargs))
        out = func(*args, **kwargs)
        if isinstance(out, int | float) and any(map(is_pinned, reads)):
            self.machine.reader(out)
        return out

    def _tell_host(self, operator: Operator, reads: Sequence[Tensor], writes: Sequence[Tensor]) -> None:
        """The host touches these tensors now; only the device could be at work on pinned ones."""
        if self.machine.observers and any(is_pinned(t) for t in (*reads, *writes)):
            tell_op(self.machine, operator, [t for t in reads if is_pinned(t)], writes, stream=HOST)

    # ---- issuing

    def _issue(
        self,
        operator: Operator,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        reads: Iterable[Tensor],
        kind: OpKind = "op",
    ) -> Any:
        """Issue one op to the current stream; its results may be used at once, as handles of work to come."""
        if self.generator is not None and operator.random and kwargs.get("generator") is None:
            generator, self.generator = self.generator, None
            try:
                with drawing_from(generator):
                    return self._issue(operator, func, args, kwargs, reads=reads, kind=kind)
            finally:
                self.generator = generator
        if self.machine.policy.immediate:
            return self._run_now(operator, func, args, kwargs, reads, kind)
        state = generator_state(kwargs) if operator.random else None
        made: list[Tensor] = []
        out: Any = self.results.make(operator, func, args, kwargs, made)
        if self.machine.observers:
            tell_op(self.machine, operator, reads, [*written(operator, args, kwargs), *made], kind)
        # What the op will touch is what the handles mean now: `param.data = x` may change them before it runs.
        frozen_args, frozen_kwargs = map_tensors(alias, args, kwargs)
        self.machine.issue(
            operator.name, Deferred(func, frozen_args, frozen_kwargs, [alias(t) for t in made], state)
        )
        return out

    def _run_now(
        self,
        operator: Operator,
        func: Any,
        args: Any,
        kwargs: Any,
        reads: Iterable[Tensor],
        kind: OpKind,
    ) -> Any:
        machine = self.machine
        out = func(*args, **kwargs) if kwargs else func(*args)
        made: Sequence[Tensor] = tensors_of((out,)) if operator.returns_fresh else ()
        for tensor in made:
            self.memory.adopt(tensor)
        if machine.observers:
            tell_op(machine, operator, reads, [*written(operator, args, kwargs), *made], kind)
        index = machine.next_op_index()
        stream = machine.current
        stream.issued += 1
        stream.done += 1
        for observer in machine.observers:
            observer.on_run(index)
        return out
