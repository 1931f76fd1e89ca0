"""Host threads: what starts, joins, locks and queues order, and what nothing orders."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from harness.device.functions import Functions
from harness.device.handlers import HANDLERS
from harness.device.streams import Stream
from harness.device.virtual import VirtualDevice
from harness.race.happens_before import Analysis
from harness.race.watch import Watcher

DEVICE = "cpu:0"
Work = Callable[[], object]


def findings(
    program: Callable[[Callable[[Work], Work], Stream, torch.Tensor], object],
) -> list[tuple[str, int, int]]:
    """Of each race its kind and the places of its two accesses; `program` gets a wrapper for the work of threads."""
    device, analysis = VirtualDevice(), Analysis()
    device.observe(Watcher(analysis))

    def on_device(work: Work) -> Work:
        def run() -> None:
            with device.dispatcher, Functions(device.machine, device.memory, HANDLERS):
                work()

        return run

    with device.activate():
        side, x = Stream(), torch.ones(8, device=DEVICE)
        device.synchronize()
        program(on_device, side, x)
    return sorted({(f.kind, f.first.stream, f.second.stream) for f in analysis.findings.values()})


def test_a_thread_waits_for_the_device_and_what_joins_it_comes_after() -> None:
    def program(on_device: Callable[[Work], Work], side: Stream, x: torch.Tensor) -> None:
        with side:
            x.mul_(2)
        thread = threading.Thread(target=on_device(side.synchronize))
        thread.start()
        thread.join()
        x.add_(1)

    assert findings(program) == []


def test_a_flag_that_threads_look_at_in_turn_orders_nothing() -> None:
    def program(on_device: Callable[[Work], Work], side: Stream, x: torch.Tensor) -> None:
        done: list[int] = []

        def work() -> None:
            side.synchronize()
            done.append(1)

        with side:
            x.mul_(2)
        thread = threading.Thread(target=on_device(work))
        thread.start()
        while not done:
            pass
        x.add_(1)
        thread.join()

    assert findings(program) == [("race", 1, 0)]


def test_what_was_done_before_a_thread_is_started_is_before_it() -> None:
    def program(on_device: Callable[[Work], Work], side: Stream, x: torch.Tensor) -> None:
        with side:
            x.mul_(2)
        side.synchronize()
        thread = threading.Thread(target=on_device(lambda: x.add_(1)))
        thread.start()
        thread.join()

    assert findings(program) == []


def through_queue(on_device: Callable[[Work], Work], side: Stream, x: torch.Tensor) -> None:
    done: queue.Queue[int] = queue.Queue()

    def work() -> None:
        side.synchronize()
        done.put(1)

    thread = threading.Thread(target=on_device(work))
    thread.start()
    done.get()
    x.add_(1)
    thread.join()


def through_event(on_device: Callable[[Work], Work], side: Stream, x: torch.Tensor) -> None:
    done = threading.Event()

    def work() -> None:
        side.synchronize()
        done.set()

    thread = threading.Thread(target=on_device(work))
    thread.start()
    done.wait()
    x.add_(1)
    thread.join()


def through_future(on_device: Callable[[Work], Work], side: Stream, x: torch.Tensor) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(on_device(side.synchronize)).result()
        x.add_(1)


@pytest.mark.parametrize("way", [through_queue, through_event, through_future])
def test_queues_events_and_futures_order_as_locks_do(
    way: Callable[[Callable[[Work], Work], Stream, torch.Tensor], None],
) -> None:
    def program(on_device: Callable[[Work], Work], side: Stream, x: torch.Tensor) -> None:
        with side:
            x.mul_(2)
        way(on_device, side, x)

    assert findings(program) == []


def test_a_thread_that_writes_pinned_memory_while_it_is_sent_is_found() -> None:
    def program(on_device: Callable[[Work], Work], side: Stream, x: torch.Tensor) -> None:
        pinned = torch.ones(8).pin_memory()
        x.copy_(pinned, non_blocking=True)
        thread = threading.Thread(target=on_device(pinned.zero_))
        thread.start()
        thread.join()

    assert findings(program) == [("race", 0, -2)]
