"""Token batches, the same for every variant of a pair.

A batch is a pure function of (data, seed, world size, rank, step, micro-step), so a run resumes from its step
number alone, and two runs that differ in their variant see the same tokens.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from harness.study import Data, Training
from harness.workload.questions import training_questions
from harness.workload.sources import (
    Encoder,
    Example,
    HubDocuments,
    QuestionExamples,
    check_example,
    load_questions,
    open_encoder,
    read_stdlib,
    read_text,
)

if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]


class Batches(Protocol):
    """What a training loop needs: input_ids and labels, int64, (micro_batch, sequence_length)."""

    def at(self, step: int, micro: int) -> Batch: ...


def open_batches(
    data: Data, training: Training, *, vocab_size: int, world_size: int, rank: int, seed: int
) -> Batches:
    """The batches of one rank. Raises HarnessError naming the data file and row when it holds bad input."""
    plan = BatchPlan(
        micro_batch=training.micro_batch,
        accumulation=training.gradient_accumulation,
        world_size=world_size,
        rank=rank,
    )
    length = training.sequence_length
    if data.source == "stdlib":
        return IndexedBatches(plan, read_stdlib(data, vocab_size, length), seed, vocab_size)
    encoder = open_encoder(data)
    if data.source == "hub":
        return StreamedBatches(plan, HubDocuments(data, world_size, rank, seed), encoder, length, vocab_size)
    if data.source == "mmlu":
        questions = training_questions(load_questions(data))
        return IndexedBatches(plan, QuestionExamples(questions, encoder, length), seed, vocab_size)
    return IndexedBatches(plan, read_text(data, encoder, length), seed, vocab_size)


def batch_hash(batches: Iterable[Mapping[str, torch.Tensor]]) -> int:
    """63 bits of the sha256 of some batches' tokens and labels: equal hashes prove that two runs saw the same data."""
    digest = hashlib.sha256()
    for batch in batches:
        for key in sorted(batch):
            digest.update(batch[key].numpy().tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def chained_hash(before: str, batches: int) -> str:
    """The hash of all steps' batches from that of all steps before (none: empty) and this step's `batch_hash`.

    It needs no more than itself to go on, so it travels in a checkpoint.
    """
    return hashlib.sha256(f"{before} {batches}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Which positions of the global order one rank sees.

    A global micro-batch is a run of world_size × micro_batch positions, split among ranks in rank order;
    nodes, hpZ groups and variants play no part.
    """

    micro_batch: int  # sequences
    accumulation: int  # micro-steps a step
    world_size: int
    rank: int

    def micro_step(self, step: int, micro: int) -> int:
        """Micro-steps done before this one."""
        return step * self.accumulation + micro

    def positions(self, step: int, micro: int) -> range:
        """Positions in the global order, shared by all ranks."""
        start = (self.micro_step(step, micro) * self.world_size + self.rank) * self.micro_batch
        return range(start, start + self.micro_batch)

    def own_positions(self, step: int, micro: int) -> range:
        """Positions in this rank's own order, for data that is already sharded."""
        start = self.micro_step(step, micro) * self.micro_batch
        return range(start, start + self.micro_batch)


@lru_cache(maxsize=4)
def epoch_order(size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of `size` examples in one epoch: a permutation that depends on nothing but its arguments."""
    return np.random.default_rng([seed, epoch]).permutation(size)


@dataclass(frozen=True)
class IndexedBatches:
    """Batches over examples that can be had by index; each epoch sees every example once."""

    plan: BatchPlan
    examples: Sequence[Example]
    seed: int
    vocab_size: int

    def at(self, step: int, micro: int) -> Batch:
        return collate([self._example(place) for place in self.plan.positions(step, micro)], self.vocab_size)

    def _example(self, position: int) -> Example:
        epoch, place = divmod(position, len(self.examples))
        return self.examples[int(epoch_order(len(self.examples), self.seed, epoch)[place])]


@dataclass
class StreamedBatches:
    """Batches over documents that only come in order, packed end to end; going back starts it again."""

    plan: BatchPlan
    documents: HubDocuments
    encoder: Encoder
    length: int
    vocab_size: int
    _stream: Iterator[Example] = field(init=False, repr=False, default_factory=lambda: iter(()))
    _next: int | None = field(init=False, repr=False, default=None)

    def at(self, step: int, micro: int) -> Batch:
        return collate(
            [self._example(place) for place in self.plan.own_positions(step, micro)], self.vocab_size
        )

    def _example(self, position: int) -> Example:
        if self._next is None or position < self._next:
            self._stream, self._next = self._pack(), 0
        skipped = position - self._next
        self._next = position + 1
        return next(itertools.islice(self._stream, skipped, None))

    def _pack(self) -> Iterator[Example]:
        """Sequences of `length` tokens across documents, without end."""
        rest: list[int] = []
        for row, text in self.documents.endless():
            rest += self.encoder.encode(text)
            whole = len(rest) // self.length * self.length
            for start in range(0, whole, self.length):
                tokens = np.array(rest[start : start + self.length], dtype=np.int64)
                yield Example(tokens, tokens, f"{self.documents.name}: row {row}")
            rest = rest[whole:]


def collate(examples: Sequence[Example], vocab_size: int) -> Batch:
    """Stack checked examples into int64 tensors (examples, sequence_length)."""
    import torch

    for example in examples:
        check_example(example, vocab_size)
    return {
        "input_ids": torch.from_numpy(np.stack([example.tokens for example in examples])),
        "labels": torch.from_numpy(np.stack([example.labels for example in examples])),
    }
