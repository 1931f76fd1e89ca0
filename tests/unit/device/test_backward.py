"""Backward passes on the virtual device: every node on the stream of its forward, with the engine's own waits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from harness.clock.policy import policy_named
from harness.device import backward
from harness.device.observe import Observer, OpRecord
from harness.device.streams import Stream
from harness.device.virtual import VirtualDevice
from harness.race.happens_before import Analysis
from harness.race.watch import Watcher
from tests.unit.device.test_streams_tensors import DEVICE, POLICIES


@contextmanager
def on(policy: str = "eager") -> Iterator[VirtualDevice]:
    device = VirtualDevice(policy_named(policy))
    device.use_policy()
    with device.activate():
        yield device


class Issued(Observer):
    """What was issued, as words: `mul on 1`, `0 waits for 1`, `1 uses 3` (record_stream)."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.recorded: dict[int, int] = {}

    def on_op(self, op: OpRecord) -> None:
        self.words.append(f"{op.name} on {op.stream}")

    def on_event_record(self, event: int, stream: int) -> None:
        self.recorded[event] = stream

    def on_stream_wait(self, stream: int, event: int) -> None:
        self.words.append(f"{stream} waits for {self.recorded[event]}")

    def on_record_stream(self, storage: int, stream: int) -> None:
        self.words.append(f"{stream} uses {storage}")


def issued_by(device: VirtualDevice, work: Callable[[], object]) -> list[str]:
    seen = Issued()
    device.observe(seen)
    work()
    device.machine.observers.remove(seen)
    return seen.words


def leaf(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, device=DEVICE, requires_grad=True)


def test_a_backward_op_runs_on_the_stream_of_its_forward_and_the_caller_waits_at_the_end() -> None:
    with on() as device:
        side, w = Stream(), leaf(3)
        with side:
            loss = (w * 2).sum()
        words = issued_by(device, loss.backward)
    assert words[0] == "ones_like on 0"
    assert [word for word in words if " on " in word][1:] == ["mul on 1"]
    assert "1 waits for 0" in words  # the first gradient was made on the caller's stream
    assert words[-1] == "0 waits for 1"
    assert device.machine.current is device.machine.default


def test_a_pass_on_one_stream_alone_records_and_waits_for_nothing() -> None:
    with on() as device:
        loss = (leaf(3) * 2).sum()
        assert issued_by(device, loss.backward) == ["ones_like on 0", "mul on 0"]


def test_a_gradient_that_changes_its_stream_is_waited_for_and_recorded() -> None:
    with on() as device:
        one, other, w = Stream(), Stream(), leaf(3)
        with one:
            h = w * 2
        with other:
            loss = h.sin().sum()
        words = issued_by(device, loss.backward)
    before, after = words.index("mul on 2"), words.index("mul on 1")
    assert "1 waits for 2" in words[before:after]
    assert any(word.startswith("1 uses ") for word in words[before:after])


@pytest.mark.parametrize("at_once", [False, True])
def test_gradients_of_one_input_are_added_on_the_consumers_stream(
    at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch before 2.8 makes the consumer wait as soon as a gradient is there, later ones before it is used."""
    monkeypatch.setattr(backward, "EVENTS_AT_ONCE", at_once)
    with on() as device:
        one, other, w = Stream(), Stream(), leaf(3)
        h = w * 2
        with one:
            a = h.sin()
        with other:
            b = h.cos()
        loss = (a + b).sum()
        words = issued_by(device, loss.backward)
    adding = words.index("add on 0")
    assert {"0 waits for 1", "0 waits for 2"} <= set(words[:adding])
    assert (words.index("0 waits for 2") < words.index("cos on 1")) == at_once


def test_hooks_run_on_the_stream_of_their_node() -> None:
    seen: dict[str, int] = {}
    with on() as device:
        side, w = Stream(), leaf(3)

        def here(name: str) -> Callable[..., None]:
            def note(*_: object) -> None:
                seen[name] = device.machine.current.id

            return note

        with side:
            h = w * 2
        y = h.sin()
        h.register_hook(here("tensor on side"))
        y.register_hook(here("tensor on compute"))
        h.grad_fn.register_prehook(here("before a node on side"))
        y.grad_fn.register_hook(here("after a node on compute"))
        w.register_post_accumulate_grad_hook(here("after the leaf"))
        y.sum().backward()
    assert seen == {
        "tensor on side": 1,
        "tensor on compute": 0,
        "before a node on side": 1,
        "after a node on compute": 0,
        "after the leaf": 1,
    }


def test_the_node_of_a_leaf_that_a_program_keeps_stays_on_the_stream_where_it_was_made() -> None:
    streams = []
    with on() as device:
        side, w = Stream(), leaf(3)
        kept = w.expand_as(w).grad_fn.next_functions[0][0]
        kept.register_hook(lambda *_: streams.append(device.machine.current.id))
        for _ in range(2):
            with side:
                loss = (w * 2).sum()
            loss.backward()
    assert streams == [0, 0]


def test_what_is_queued_for_the_end_of_the_pass_runs_on_the_callers_stream_after_all_leaves() -> None:
    with on() as device:
        side, w = Stream(), leaf(3)
        engine = torch.autograd.Variable._execution_engine

        def at_end() -> None:
            w.grad.add_(1)

        w.register_post_accumulate_grad_hook(lambda *_: engine.queue_callback(at_end))
        with side:
            loss = (w * 2).sum()
        words = issued_by(device, loss.backward)
    assert words[-2:] == ["0 waits for 1", "add_ on 0"]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_are_recomputed_on_the_stream_of_their_forward(reentrant: bool) -> None:
    with on() as device:
        side, w, x = Stream(), leaf(3), leaf(3)
        with side:
            h = torch.utils.checkpoint.checkpoint(lambda x: (x * w).sin(), x, use_reentrant=reentrant)
        words = issued_by(device, h.sum().backward)
    assert [word for word in words if word.startswith(("mul", "sin", "cos"))] == [
        "mul on 1",
        *(["sin on 1"] if reentrant else []),
        "cos on 1",
        *["mul on 1"] * 3,
    ]


def random_graph(seed: int, device: VirtualDevice) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A loss over random nodes on random streams, each of which waits for what it uses."""
    draw = random.Random(seed)
    streams = [device.machine.default, Stream(), Stream()]
    leaves = [leaf(4) for _ in range(3)]
    values = [(w, device.machine.default) for w in leaves]
    for _ in range(12):
        (a, from_a), (b, from_b) = draw.choices(values, k=2)
        stream = draw.choice(streams)
        with stream:
            for origin, value in ((from_a, a), (from_b, b)):
                stream.wait_stream(origin)
                value.record_stream(stream)
            values.append((draw.choice((torch.mul, torch.add, torch.sub))(a.sin(), b), stream))
    for _, stream in values:
        device.machine.default.wait_stream(stream)
    for value, _ in values:
        value.record_stream(device.machine.default)
    return torch.stack([value for value, _ in values[3:]]).sum(), leaves


@pytest.mark.parametrize("seed", range(6))
def test_a_pass_over_many_streams_has_no_race_and_the_same_gradients_in_every_order(seed: int) -> None:
    def gradients(policy: str, *watchers: Observer) -> list[list[float]]:
        with on(policy) as device:
            for watcher in watchers:
                device.observe(watcher)
            loss, leaves = random_graph(seed, device)
            loss.backward()
            return [w.grad.tolist() for w in leaves if w.grad is not None]

    analysis = Analysis()
    expected = gradients("eager", Watcher(analysis))
    assert analysis.findings == {}
    for policy in POLICIES[1:]:
        assert gradients(policy) == expected
