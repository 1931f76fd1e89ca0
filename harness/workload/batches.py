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
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from harness.corpus import Encoder, Tokens, open_corpus, open_encoder, open_tokens, permuted
from harness.study import Data, Training
from harness.system.errors import HarnessError
from harness.workload.questions import training_questions
from harness.workload.sources import (
    Example,
    HubDocuments,
    QuestionExamples,
    check_example,
    load_questions,
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
    if data.packed:
        tokens, name = _packed_tokens(data, "train")
        return PackedBatches(plan, tokens, length, seed, vocab_size, data.repeat, name)
    encoder = open_encoder(data.tokenizer)
    if data.source == "hub":
        return StreamedBatches(plan, HubDocuments(data, world_size, rank, seed), encoder, length, vocab_size)
    if data.source == "mmlu":
        questions = training_questions(load_questions(data))
        return IndexedBatches(plan, QuestionExamples(questions, encoder, length), seed, vocab_size)
    return IndexedBatches(plan, read_text(data, encoder, length), seed, vocab_size)


def open_validation(
    data: Data, training: Training, *, vocab_size: int, world_size: int, rank: int
) -> Batches:
    """One rank's held-out micro-batches, 0 to training.validation_batches - 1 of any step: always the same.

    Raises HarnessError where the data holds nothing out, or less than is asked for.
    """
    if not data.packed:
        raise HarnessError(
            "training.validate_every: nothing is held out of this data; use your own text with data.packed: true"
        )
    tokens, name = _packed_tokens(data, "held-out")
    plan = BatchPlan(micro_batch=training.micro_batch, accumulation=1, world_size=world_size, rank=rank)
    return HeldOutBatches(plan, tokens, training.sequence_length, vocab_size, name)


def _packed_tokens(data: Data, part: Literal["train", "held-out"]) -> tuple[Tokens, str]:
    """The tokens of a prepared corpus, mapped, and how they are called. Raises HarnessError."""
    if data.sha256 is None:
        raise HarnessError(
            f"data.path: {data.path} is not prepared; run `hpz data prepare` with the study first"
        )
    corpus, folder = open_corpus(data.prepared, data.sha256)
    return open_tokens(corpus, folder, held_out=part == "held-out"), f"corpus {folder.name} ({part})"


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


@dataclass(frozen=True)
class PackedBatches:
    """Batches over a packed corpus: any step costs the same, and each epoch sees every sequence once."""

    plan: BatchPlan
    tokens: Tokens
    length: int
    seed: int
    vocab_size: int
    repeat: bool  # whether there is a second epoch
    name: str

    def at(self, step: int, micro: int) -> Batch:
        return collate([self._example(place) for place in self.plan.positions(step, micro)], self.vocab_size)

    def _example(self, position: int) -> Example:
        size = len(self.tokens) // self.length
        if position >= size and not (self.repeat and size):
            raise HarnessError(
                f"{self.name}: its {size:,} sequences of {self.length} tokens are used up; prepare more text or set "
                "data.repeat: true"
            )
        epoch, place = divmod(position, size)
        return _packed_example(self.tokens, permuted(place, size, self.seed, epoch), self.length, self.name)


@dataclass(frozen=True)
class HeldOutBatches:
    """The first held-out sequences of a packed corpus, in order, whatever the step."""

    plan: BatchPlan
    tokens: Tokens
    length: int
    vocab_size: int
    name: str

    def at(self, step: int, micro: int) -> Batch:
        places = self.plan.positions(micro, 0)
        if places.stop > len(self.tokens) // self.length:
            raise HarnessError(
                f"{self.name}: holds {len(self.tokens) // self.length:,} sequences of {self.length} tokens, fewer than "
                "are asked for; take fewer training.validation_batches, or prepare again with a larger "
                "data.validation_fraction"
            )
        return collate(
            [_packed_example(self.tokens, place, self.length, self.name) for place in places], self.vocab_size
        )


def _packed_example(tokens: Tokens, index: int, length: int, name: str) -> Example:
    cut = tokens.read(index * length, length)
    return Example(cut, cut, f"{name}: tokens {index * length} to {(index + 1) * length - 1}")


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
