"""Tensors on the virtual device: host and device memory, copies, deferral, poison and what it refuses."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from harness.clock.policy import policy_named
from harness.device.deferred import Deferred
from harness.device.errors import DeviceError
from harness.device.observe import HOST, Observer, OpRecord
from harness.device.opening import open_device, open_process_device
from harness.device.poison import pattern_of
from harness.device.streams import Stream, machine
from harness.device.virtual import VirtualDevice
from harness.system.errors import HarnessError

DEVICE = "cpu:0"
POLICIES = ("eager", "side-first", "main-first", "random(1)", "random(2)")


@contextmanager
def on(policy: str, poison: str = "nan") -> Iterator[VirtualDevice]:
    device = VirtualDevice(policy_named(policy), poison)
    device.use_policy()
    with device.activate():
        yield device


def syncs(device: VirtualDevice) -> dict[str, int]:
    return device.counters().host_syncs_by_reason()


# ---- where memory is


@pytest.mark.parametrize("kind", [int, float, bool, complex])
def test_python_types_are_taken_for_dtypes_as_torch_takes_them(kind: type) -> None:
    expected = torch.ones(2).to(kind).dtype
    with on("eager"):
        assert torch.ones(2, device=DEVICE).to(kind).dtype == expected
        assert torch.ones(2).to(dtype=kind).dtype == expected


def test_a_factory_without_a_device_makes_host_memory() -> None:
    with on("eager"):
        assert torch.zeros(2).device == torch.device("cpu")
        assert torch.zeros(2, device="cpu").device == torch.device("cpu")


WAITS = "packed.copy_(tensor)" in inspect.getsource(torch.autograd.graph.save_on_cpu)  # as 2.8 does


@pytest.mark.parametrize("pin", [False, True])
def test_activations_that_are_saved_on_the_host_are_copied_there(
    pin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with on("eager") as device:
        x = torch.ones(4, device=DEVICE, requires_grad=True)
        with torch.autograd.graph.save_on_cpu(pin_memory=pin):
            y = x.exp()
        saved = y.grad_fn._saved_result  # type: ignore[union-attr]
        assert saved.device == torch.device(DEVICE)
        assert list(syncs(device))[:1] == (["copy to pageable memory"] if WAITS or not pin else [])
        y.sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad.cpu(), torch.ones(4).exp())


def test_an_index_names_the_device_and_results_stay_there() -> None:
    with on("side-first"):
        x = torch.arange(4.0, device=DEVICE)
        for y in (
            x + 1,
            x[1:],
            x.clone(),
            x.new_zeros(3),
            torch.empty_like(x),
            x.to(torch.bfloat16),
            x.sum(),
        ):
            assert y.device == torch.device(DEVICE)


def test_gradients_lie_where_their_parameters_do() -> None:
    with on("side-first"):
        weight = torch.ones(3, 3, device=DEVICE, requires_grad=True)
        functional.cross_entropy(
            torch.ones(2, 3, device=DEVICE) @ weight, torch.tensor([0, 1]).to(DEVICE)
        ).backward()
        assert weight.grad is not None
        assert weight.grad.device == torch.device(DEVICE)
        bias = torch.ones(3, requires_grad=True)
        (bias * 2).sum().backward()
        assert bias.grad is not None
        assert bias.grad.device == torch.device("cpu")


def test_hooks_in_backward_see_the_device() -> None:
    seen = []
    with on("eager"):
        x = torch.ones(2, device=DEVICE, requires_grad=True)
        x.register_hook(lambda grad: seen.append((grad.device, torch.zeros(1).device)))
        x.sum().backward()
    assert seen == [(torch.device(DEVICE), torch.device("cpu"))]


def test_moving_there_and_back_copies() -> None:
    with on("eager"):
        host = torch.arange(3.0)
        device = host.to(DEVICE)
        device += 1
        assert host.tolist() == [0, 1, 2]
        assert device.cpu().tolist() == [1, 2, 3]
        assert device.to(DEVICE) is device
        assert host.cpu() is host


def test_host_and_device_tensors_do_not_mix() -> None:
    with on("eager"):
        x = torch.ones(2, device=DEVICE)
        with pytest.raises(DeviceError, match="same device"):
            x + torch.ones(2)
        with pytest.raises(DeviceError, match="same device"):
            torch.ones(2).add_(x)


def test_a_host_scalar_takes_part_with_its_value_at_issue() -> None:
    with on("side-first"):
        x, factor = torch.ones(2, device=DEVICE), torch.tensor(3.0)
        y = x * factor
        factor.fill_(7)
        assert y.tolist() == [3, 3]


def test_numpy_is_refused_as_cuda_refuses_it() -> None:
    with on("eager"), pytest.raises(TypeError, match=r"Tensor\.cpu\(\)"):
        torch.ones(2, device=DEVICE).numpy()


def test_pickle_and_deepcopy_wait_for_the_values() -> None:
    with on("side-first"):
        x = torch.ones(2, device=DEVICE) * 2
        copied = copy.deepcopy(x)
        assert copied.device == torch.device(DEVICE)
        assert copied.tolist() == pickle.loads(pickle.dumps(x)).tolist() == [2, 2]


def test_a_tensor_made_by_its_old_constructor_is_the_hosts() -> None:
    with on("side-first"):
        for made in (torch.FloatTensor(3), torch.LongTensor([1, 2]), torch.Tensor(2, 2)):
            assert made.device == torch.device("cpu")


# ---- when the host waits


READS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0]),
    "tolist": lambda x: x.tolist(),
    "repr": repr,
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "copy to pageable memory": lambda x: torch.zeros(3).copy_(x, non_blocking=True),
    "copy from pageable memory": lambda x: x.copy_(torch.zeros(3), non_blocking=True),
    "list index": lambda x: x[[0, 1]],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_needs_a_value_waits_once_for_the_current_stream(read: Callable[[torch.Tensor], object]) -> None:
    with on("side-first") as device:
        x = torch.ones(3, device=DEVICE) * 2
        side = Stream()
        with side:
            torch.ones(3, device=DEVICE)
        read(x)
        assert sum(syncs(device).values()) == 1
        assert device.machine.default.done >= 2  # that is, x


FREE: dict[str, Callable[[torch.Tensor], object]] = {
    "arithmetic": lambda x: (x + 1).sum(),
    "set a number": lambda x: x.__setitem__(0, 5.0),
    "pinned to device": lambda x: x.copy_(torch.zeros(3).pin_memory(), non_blocking=True),
    "device to pinned": lambda x: torch.zeros(3).pin_memory().copy_(x, non_blocking=True),
    "non-blocking to cpu": lambda x: x.to("cpu", non_blocking=True),
    "shape": lambda x: x.reshape(1, 3).shape,
    "random": lambda x: functional.dropout(x, 0.5),
    "host item": lambda x: torch.ones(3).sum().item(),
}


@pytest.mark.parametrize("free", FREE.values(), ids=FREE)
def test_what_needs_no_value_does_not_wait(free: Callable[[torch.Tensor], object]) -> None:
    with on("side-first") as device:
        x = torch.ones(3, device=DEVICE)
        free(x)
        assert syncs(device) == {}
        assert device.machine.default.done == 0


def test_a_pinned_source_is_read_when_the_copy_runs() -> None:
    with on("side-first") as device:
        host = torch.ones(2).pin_memory()
        x = host.to(DEVICE, non_blocking=True)
        host.fill_(9)
        device.synchronize()
        assert x.tolist() == [9, 9]


def test_pinned_memory_read_too_early_holds_poison() -> None:
    with on("side-first") as device:
        early = torch.ones(2, device=DEVICE).to("cpu", non_blocking=True)
        assert early.isnan().all()
        device.synchronize()
        assert early.tolist() == [1, 1]


# ---- deferral


def test_an_op_uses_what_its_arguments_meant_when_it_was_issued() -> None:
    with on("side-first"):
        x = torch.ones(2, device=DEVICE)
        y = x * 2
        x.data = torch.zeros(5, device=DEVICE)
        assert y.tolist() == [2, 2]


def test_views_made_before_the_value_exists_show_it() -> None:
    with on("side-first"):
        x = torch.ones(4, device=DEVICE) * 2
        half = x[2:]
        half += 1
        assert x.tolist() == [2, 2, 3, 3]


def test_autograd_still_sees_writes_to_saved_tensors() -> None:
    with on("side-first"):
        x = torch.ones(2, device=DEVICE, requires_grad=True)
        y = x.exp()
        y.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_foreach_and_mutation_with_fresh_results_work() -> None:
    with on("side-first"):
        x = torch.arange(6.0, device=DEVICE).reshape(3, 2)
        assert [t.tolist() for t in torch._foreach_mul([x[0], x[1]], 2.0)] == [[0, 2], [4, 6]]
        mean, variance = torch.zeros(2, device=DEVICE), torch.ones(2, device=DEVICE)
        functional.batch_norm(x, mean, variance, training=True, momentum=1.0)
        assert mean.tolist() == [2, 3]
        values, indices = x.max(dim=0)
        assert (values.tolist(), indices.tolist()) == ([4, 5], [2, 2])


@pytest.mark.parametrize("policy", POLICIES)
def test_random_numbers_are_those_of_plain_cpu(policy: str) -> None:
    def program(device: str) -> list[float]:
        torch.manual_seed(3)
        x = torch.rand(4, device=device)
        y = functional.dropout(x, 0.5)
        x.normal_()
        return [*(x + y).tolist(), torch.rand(1).item()]

    plain = program("cpu")
    with on(policy):
        assert program(DEVICE) == plain


@pytest.mark.parametrize("policy", POLICIES)
def test_an_ordered_training_is_bit_equal_to_plain_cpu(policy: str) -> None:
    def program(device: str) -> list[float]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.GELU(), torch.nn.Linear(16, 4)
        )
        model.to(device)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        losses = []
        for step in range(4):
            x = torch.full((3, 8), float(step)).sin().to(device)
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    plain = program("cpu")
    with on(policy):
        assert program(DEVICE) == plain


# ---- a planted race


def two_streams(ordered: bool) -> list[float]:
    """The side stream reads a buffer that the main stream fills; the wait between them is what is tested."""
    buffer = torch.empty(4, device=DEVICE)
    buffer.copy_(torch.arange(4.0, device=DEVICE))
    side, main = Stream(), torch.ones(1, device=DEVICE)
    if ordered:
        side.wait_stream(side.machine.default)
    with side:
        doubled = buffer * 2
    side.machine.default.wait_stream(side)
    return (doubled + main * 0).tolist()


@pytest.mark.parametrize("policy", POLICIES)
def test_with_its_wait_the_program_is_right_under_every_policy(policy: str) -> None:
    with on(policy):
        assert two_streams(ordered=True) == [0, 2, 4, 6]


def test_the_race_is_silent_under_eager_and_shows_side_first() -> None:
    with on("eager"):
        assert two_streams(ordered=False) == [0, 2, 4, 6]
    with on("side-first"):
        assert torch.tensor(two_streams(ordered=False)).isnan().all()
    with on("side-first", "pattern"):
        assert two_streams(ordered=False) == [2 * pattern_of(torch.float32)] * 4


def overwritten_too_soon(ordered: bool) -> list[float]:
    """The main stream overwrites what the side stream still has to read."""
    buffer = torch.ones(4, device=DEVICE)
    side = Stream()
    side.wait_stream(side.machine.default)
    with side:
        doubled = buffer * 2
    if ordered:
        side.machine.default.wait_stream(side)
    buffer.zero_()
    side.machine.default.wait_stream(side)
    return (doubled + 0).tolist()


def test_a_late_read_shows_main_first() -> None:
    with on("main-first"):
        assert overwritten_too_soon(ordered=True) == [2] * 4
        assert overwritten_too_soon(ordered=False) == [0] * 4
    with on("eager"):
        assert overwritten_too_soon(ordered=False) == [2] * 4


# ---- poison


def test_nan_fills_every_float_and_pattern_every_byte() -> None:
    with on("eager", "nan"):
        assert torch.empty(3, device=DEVICE).isnan().all()
        assert torch.empty(3, dtype=torch.bfloat16, device=DEVICE).isnan().all()
    with on("eager", "pattern"):
        for dtype in (torch.bfloat16, torch.float32, torch.int64, torch.uint8):
            x = torch.empty(3, dtype=dtype, device=DEVICE)
            assert set(x.cpu().view(torch.uint8).tolist()) == {0x5A}
            assert x.isfinite().all()


def test_host_memory_is_not_poisoned() -> None:
    with on("eager", "nan"):
        assert torch.zeros(3).add_(1).tolist() == [1, 1, 1]


def test_stale_gives_the_content_of_the_last_block_freed_on_the_stream() -> None:
    with on("eager", "stale"):
        first = torch.empty(100, device=DEVICE)
        assert first.tolist() == [0] * 100
        first.fill_(5)
        del first
        assert torch.empty(120, device=DEVICE)[:100].tolist() == [5] * 100
        with Stream():
            assert torch.empty(100, device=DEVICE).tolist() == [0] * 100


def taken_over(recorded: bool) -> list[float]:
    """What a side stream reads of a block that is freed and handed out again before it has run."""
    with on("main-first", "stale"):
        side, block = Stream(), torch.full((8,), 1.0, device=DEVICE)
        side.wait_stream(machine().current)
        with side:
            seen = block + 0
        if recorded:
            block.record_stream(side)
        del block
        torch.full((8,), 5.0, device=DEVICE)
        side.synchronize()
        return seen.tolist()  # type: ignore[no-any-return]


def test_a_block_is_handed_out_under_the_ops_that_still_use_it_unless_their_stream_was_recorded() -> None:
    assert taken_over(recorded=False) == [5.0] * 8
    assert taken_over(recorded=True) == [1.0] * 8


def test_single_precision_leftovers_hold_nan_when_read_as_bfloat16() -> None:
    """Why unpoisoned memory behaves like NaN: half of these bits are random mantissas, 1 of 256 exponents is full."""
    leftovers = torch.randn(8192, generator=torch.Generator().manual_seed(0))
    assert not leftovers.view(torch.bfloat16).isfinite().all()


def test_an_unknown_poison_is_refused() -> None:
    with pytest.raises(HarnessError, match="'zero' is not known; use one of nan, pattern, stale"):
        VirtualDevice(poison="zero")


def test_memory_stays_the_devices_when_garbage_that_refers_to_it_is_collected() -> None:
    with on("side-first"):
        device, host = torch.ones(2, device=DEVICE), torch.ones(2).pin_memory()
        torch.save([device, host], io.BytesIO())  # leaves a cycle behind in some releases
        cycle: list[object] = [device.untyped_storage(), host.untyped_storage()]
        cycle.append(cycle)
        del cycle
        gc.collect()
        assert str(device.device) == DEVICE
        assert host.is_pinned()


def test_under_vmap_a_tensor_is_where_its_memory_is() -> None:
    def made(x: torch.Tensor) -> torch.Tensor:
        assert str(x.device) == DEVICE
        return x + x.new_ones(())

    with on("side-first"):
        result = torch.vmap(made)(torch.arange(3.0, device=DEVICE))
        assert str(result.device) == DEVICE
        assert result.tolist() == [1, 2, 3]


# ---- refusals


def test_an_operator_that_nobody_described_is_refused() -> None:
    # The schema in words, as torch 2.4 cannot read annotations that are strings.
    @torch.library.custom_op("hpz_test::peek", mutates_args=(), schema="(Tensor x) -> float")
    def peek(x: torch.Tensor) -> float:
        return float(x.sum())

    with on("side-first"):
        assert peek(torch.ones(2)) == 2
        with pytest.raises(DeviceError, match="not known whether this operator waits"):
            peek(torch.ones(2, device=DEVICE))


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(HarnessError, match="'tpu' is not known; use cpu, virtual or cuda"):
        open_process_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(HarnessError, match=r"device cuda: .* use device: virtual or cpu"):
            open_device("cuda")


def test_device_memory_cannot_be_pinned() -> None:
    with on("eager"), pytest.raises(DeviceError, match="pin_memory: only host memory can be pinned"):
        torch.zeros(2, device=DEVICE).pin_memory()


def test_device_values_cannot_index_a_host_tensor() -> None:
    with on("eager"), pytest.raises(DeviceError, match="index: device indices or values with a host tensor"):
        torch.zeros(2)[torch.tensor([1], device=DEVICE)]


def test_a_result_of_another_shape_than_foreseen_is_refused() -> None:
    late = Deferred(torch.ops.aten.neg.default, (torch.ones(3),), {}, [torch.empty(2)], None)
    with pytest.raises(DeviceError, match=r"depends on data \(\(2,\) was foreseen, \(3,\) came\)"):
        late()


def test_only_the_virtual_device_can_be_observed() -> None:
    with pytest.raises(HarnessError, match="device cpu cannot be observed; use device: virtual"):
        open_device("cpu").observe(Observer())


# ---- observers


class Seen(Observer):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.ops: list[OpRecord] = []

    def on_op(self, op: OpRecord) -> None:
        self.ops.append(op)
        self.calls.append(op.name)

    def on_run(self, index: int) -> None:
        self.calls.append(f"run {index}")

    def on_alloc(self, storage: int, nbytes: int, stream: int, written: bool) -> None:
        self.calls.append(f"alloc {storage}: {nbytes}")

    def on_free(self, storage: int) -> None:
        self.calls.append(f"free {storage}")

    def on_record_stream(self, storage: int, stream: int) -> None:
        self.calls.append(f"record {storage} on {stream}")


def test_observers_see_exact_views_and_lifetimes() -> None:
    seen = Seen()
    with on("eager") as device:
        device.observe(seen)
        x = torch.zeros(4, 4, device=DEVICE)
        x[:, 1].fill_(1)
        x.record_stream(Stream())
        del x
    assert seen.calls == ["alloc 0: 64", "zeros", "run 0", "fill_", "run 1", "record 0 on 1", "free 0"]
    fill = seen.ops[1]
    assert fill.reads == ()
    assert [(w.storage, w.offset, w.sizes, w.strides) for w in fill.writes] == [(0, 1, (4,), (4,))]


def test_observers_see_pinned_memory_and_what_the_host_does_with_it() -> None:
    seen = Seen()
    with on("eager") as device:
        device.observe(seen)
        pinned = torch.zeros(4, pin_memory=True)
        pinned.to(DEVICE, non_blocking=True)
        pinned[1:].add_(1)
    copied, added = seen.ops
    assert [(op.name, op.stream, op.index) for op in seen.ops] == [("_to_copy", 0, 0), ("add_", HOST, 1)]
    assert [access.storage for access in (*copied.reads, *copied.writes)] == [-1, 0]
    assert [(access.storage, access.offset, access.sizes) for access in added.writes] == [(-1, 1, (3,))]
    assert "alloc -1: 16" in seen.calls


def test_pinned_and_host_memory_of_every_factory_is_the_hosts() -> None:
    with on("eager"):
        for made in (
            torch.empty(2, pin_memory=True),
            torch.zeros(2, pin_memory=True),
            torch.tensor([1.0], pin_memory=True),
        ):
            assert made.is_pinned()
            assert made.device == torch.device("cpu")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_is_asked_to_pin_does_so_for_batches_of_any_structure(workers: int) -> None:
    rows = [{"ids": torch.tensor([i]), "pair": (torch.tensor(0.5), "text")} for i in range(4)]
    with on("eager"):
        batches = list(DataLoader(rows, batch_size=2, pin_memory=True, num_workers=workers))
        assert [batch["ids"].tolist() for batch in batches] == [[[0], [1]], [[2], [3]]]
        assert all(batch["ids"].is_pinned() and batch["pair"][0].is_pinned() for batch in batches)
        assert not next(iter(DataLoader(rows, batch_size=2)))["ids"].is_pinned()


def test_a_pinned_batch_is_sent_without_a_wait_and_a_pageable_one_with_one() -> None:
    with on("side-first") as device:
        for pinned, waits in ((True, 0), (False, 1)):
            before = device.counters()
            for batch in DataLoader(torch.ones(2, 3), pin_memory=pinned, batch_size=2):
                batch.to(DEVICE, non_blocking=True)
            assert sum((device.counters() - before).host_syncs_by_reason().values()) == waits


@pytest.mark.parametrize("policy", POLICIES)
def test_ops_have_the_same_numbers_under_every_policy(policy: str) -> None:
    def issued(policy: str) -> list[str]:
        seen = Seen()
        with on(policy) as device:
            device.observe(seen)
            weight = torch.ones(3, 3, device=DEVICE, requires_grad=True)
            (weight @ weight).square().mean().backward()
            weight.grad.tolist()  # type: ignore[union-attr]
        return [op.name for op in seen.ops]

    assert issued(policy) == issued("eager")


def test_a_shape_without_memory_keeps_its_place_when_its_type_changes() -> None:
    with on("side-first"):
        assert torch.empty(2, device="meta").to(torch.bfloat16).is_meta


def test_functions_that_zero_init_puts_in_torchs_place_are_not_called_by_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("zeros", "empty", "full"):
        monkeypatch.setattr(torch, name, lambda *_, **__: pytest.fail("called by the device itself"))
    with on("side-first"):
        x = torch.arange(4.0, device=DEVICE).half()
        assert (x.view(2, 2) @ x.view(2, 2)).sum().item() == 22


def test_a_sparse_tensor_is_refused_with_the_way_out() -> None:
    with on("eager"):
        table = torch.nn.Embedding(10, 4, sparse=True).to(DEVICE)
        looked_up = table(torch.tensor([1, 2], device=DEVICE))
        with pytest.raises(DeviceError, match=r"torch\.sparse_coo cannot be followed .* sparse=False"):
            looked_up.sum().backward()
