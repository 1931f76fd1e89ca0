"""A thread prepares batches ahead; what a step gets, and when it fails, is as without one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.system.errors import HarnessError
from harness.workload.batches import Batch
from harness.workload.prefetch import Prefetched


@dataclass
class Counting:
    """Batches that hold their place, note who made them when, and end with an error."""

    bad: tuple[int, int] = (-1, -1)
    made: list[tuple[int, int]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def at(self, step: int, micro: int) -> Batch:
        self.made.append((step, micro))
        self.threads.add(threading.current_thread().name)
        if (step, micro) == self.bad:
            raise HarnessError(f"step {step}, micro-step {micro}: a bad row")
        return {"input_ids": torch.tensor([[step, micro]])}


def place(batch: Batch) -> tuple[int, int]:
    step, micro = batch["input_ids"][0].tolist()
    return step, micro


def batch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@given(
    asked=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), min_size=1, max_size=12),
    ahead=st.integers(0, 5),
)
def test_any_place_may_be_asked_for_in_any_order(asked: list[tuple[int, int]], ahead: int) -> None:
    with Prefetched(Counting(), accumulation=2, steps=5, ahead=ahead) as batches:
        assert [place(batches.at(*one)) for one in asked] == asked


def test_in_order_each_batch_is_made_once_ahead_of_its_step_and_none_beyond_the_last() -> None:
    source = Counting()
    with Prefetched(source, accumulation=2, steps=3, ahead=2) as batches:
        batches.at(0, 0)
        batches.thread.submit(lambda: None).result()  # what was begun is done
        assert source.made == [(0, 0), (0, 1), (1, 0)]
        for step, micro in [(0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]:
            assert place(batches.at(step, micro)) == (step, micro)
    assert source.made == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_one_thread_makes_all_batches_and_ends_with_the_block() -> None:
    source = Counting()
    with Prefetched(source, accumulation=1, steps=9) as batches:
        batches.at(0, 0)
        assert len(batch_threads()) == 1
    assert len(source.threads) == 1 and threading.current_thread().name not in source.threads
    assert not batch_threads()


def test_tensors_are_pinned_ahead() -> None:
    pinned: list[str] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(threading.current_thread().name)
        return tensor + 100

    with Prefetched(Counting(), accumulation=1, steps=1, pin=pin) as batches:
        assert place(batches.at(0, 0)) == (100, 100)
    assert pinned == ["batches_0"]


def test_an_error_is_raised_in_the_step_that_needs_the_batch() -> None:
    with Prefetched(Counting(bad=(2, 0)), accumulation=1, steps=9) as batches:
        assert place(batches.at(0, 0)) == (0, 0) and place(batches.at(1, 0)) == (1, 0)
        with pytest.raises(HarnessError, match="step 2, micro-step 0: a bad row"):
            batches.at(2, 0)
        assert place(batches.at(3, 0)) == (3, 0)


def test_the_thread_ends_when_the_loop_fails() -> None:
    with pytest.raises(ZeroDivisionError), Prefetched(Counting(), accumulation=1, steps=9) as batches:
        batches.at(0, 0)
        1 / 0  # noqa: B018
    assert not batch_threads()
