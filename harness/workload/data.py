"""Token batches, the same for every variant: the standard library's source, a text file, Hugging Face data, questions.

A batch is a pure function of (data, seed, world size, rank, step, micro-step), so a run resumes from its step
number alone, and two runs that differ in their variant see the same tokens.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from harness.study.study import Data, Training, data_file
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.workload.questions import (
    LETTERS,
    Question,
    held_out_questions,
    parse_questions,
    training_questions,
)
from harness.workload.stdlib_text import stdlib_sha256, stdlib_tokens

if TYPE_CHECKING:
    import torch

Tokens = npt.NDArray[np.int64]
Batch = dict[str, "torch.Tensor"]

IGNORED = -100  # label of a token that the loss leaves out (PyTorch's cross_entropy)
SHUFFLE_BUFFER = 1000  # documents of a stream that are shuffled among themselves


class Batches(Protocol):
    """What a training loop needs: input_ids and labels, int64, (micro_batch, sequence_length)."""

    def at(self, step: int, micro: int) -> Batch: ...


@dataclass(frozen=True)
class Example:
    """One sequence: tokens and labels, each (sequence_length,), and where it comes from (file and row)."""

    tokens: Tokens
    labels: Tokens
    where: str


class Encoder(Protocol):
    """Text to token ids."""

    vocab_size: int

    def encode(self, text: str) -> list[int]: ...


class Bytes:
    """A token a byte: needs no vocabulary file."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class Tokenizer:
    """A Hugging Face tokenizer without special tokens. Raises HarnessError when it cannot be had."""

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise HarnessError(
                f"data.tokenizer: {name!r} is no folder with a tokenizer and could not be had from the Hub "
                f"({_reason(error)}); download it where there is a network and give its folder"
            ) from error
        self.vocab_size = len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def open_encoder(data: Data) -> Encoder:
    """The tokenizer that the study names, or bytes."""
    return Tokenizer(data.tokenizer) if data.tokenizer else Bytes()


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


def check_example(example: Example, vocab_size: int) -> None:
    """Refuse what would make the loss NaN or the model crash. Raises HarnessError naming file and row."""
    tokens, labels = example.tokens, example.labels
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        bad = int(tokens.max() if tokens.max() >= vocab_size else tokens.min())
        raise HarnessError(
            f"{example.where}: token id {bad} is outside the model's vocabulary of {vocab_size}; "
            "use the model's own tokenizer (data.tokenizer) or a model with a larger vocab_size"
        )
    used = labels[1:][labels[1:] != IGNORED]  # the first token is never predicted
    if used.size == 0:
        raise HarnessError(
            f"{example.where}: every label is masked, so its loss would be NaN; leave this row out"
        )
    if used.min() < 0 or used.max() >= vocab_size:
        raise HarnessError(f"{example.where}: a label lies outside the model's vocabulary of {vocab_size}")


@dataclass(frozen=True)
class TextExamples(Sequence[Example]):
    """A text's tokens cut into sequences that do not overlap; a tail shorter than `length` is left out."""

    tokens: Tokens
    length: int
    name: str

    def __len__(self) -> int:
        return self.tokens.size // self.length

    def __getitem__(self, index: Any) -> Any:
        start = index * self.length
        cut = self.tokens[start : start + self.length]
        return Example(cut, cut, f"{self.name}: tokens {start} to {start + self.length - 1}")


def read_stdlib(data: Data, vocab_size: int, length: int) -> TextExamples:
    """The standard library's source as examples. Raises HarnessError where it is another text than the run's."""
    if data.sha256 not in (None, stdlib_sha256()):
        raise HarnessError(
            "data.sha256: this Python's standard library is another text than the one that the run was planned with; "
            "plan and run with the same Python release"
        )
    return TextExamples(stdlib_tokens(vocab_size), length, "standard library")


def read_text(data: Data, encoder: Encoder, length: int) -> TextExamples:
    """A text file as examples. Raises HarnessError when it is too short, unreadable, not text or not the run's."""
    tokens = np.array(encoder.encode(_file_text(data)), dtype=np.int64)
    examples = TextExamples(tokens, length, _shown(data_file(data)))
    if len(examples) == 0:
        raise HarnessError(
            f"{examples.name}: {examples.tokens.size} tokens are fewer than "
            f"training.sequence_length={length}; give a longer text or a shorter sequence"
        )
    return examples


@dataclass(frozen=True)
class HubDocuments:
    """This rank's documents of a Hub or local dataset, streamed: each world_size-th once shuffled."""

    data: Data
    world_size: int
    rank: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data.path} ({self.data.split})"

    @cached_property
    def _stream(self) -> Any:
        from datasets import load_dataset

        try:
            stream = load_dataset(self.data.path, self.data.name, split=self.data.split, streaming=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise HarnessError(
                f"data.path: dataset {self.data.path!r} (split {self.data.split!r}) could not be had "
                f"({_reason(error)}); download it where there is a network and give its folder"
            ) from error
        return stream.shuffle(seed=self.seed, buffer_size=SHUFFLE_BUFFER)

    def endless(self) -> Iterator[tuple[int, str]]:
        """Row (in the shuffled stream) and text, epoch after epoch."""
        for epoch in itertools.count():
            self._stream.set_epoch(epoch)
            own = itertools.islice(enumerate(self._stream), self.rank, None, self.world_size)
            texts = ((row, self._text(row, record)) for row, record in own)
            found = False
            for row, text in texts:
                found = found or bool(text)
                yield row, text
            if not found:
                raise HarnessError(
                    f"{self.name}: fewer rows with text than the {self.world_size} ranks; give a larger dataset"
                )

    def _text(self, row: int, record: Mapping[str, Any]) -> str:
        column = self.data.text_column
        if column not in record:
            raise HarnessError(
                f"data.text_column: {self.name} has no column {column!r}; it has {', '.join(record)}"
            )
        text = record[column]
        if not isinstance(text, str):
            raise HarnessError(
                f"{self.name}: row {row}: column {column!r} holds {text!r}, not text; leave it out"
            )
        return text


def load_questions(data: Data) -> tuple[Question, ...]:
    """The data's questions (CSV or JSON lines). Raises HarnessError naming file and line."""
    file = data_file(data)
    return parse_questions(_file_text(data), name=_shown(file), json_lines=file.suffix != ".csv")


@dataclass(frozen=True)
class QuestionExamples(Sequence[Example]):
    """Questions with their answers, padded to `length`; the answer's token alone has a label."""

    questions: Sequence[Question]
    encoder: Encoder
    length: int

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: Any) -> Any:
        question = self.questions[index]
        asked = self.encoder.encode(f"{question.prompt} {question.answer}")
        if len(asked) > self.length:
            raise HarnessError(
                f"{question.where}: {len(asked)} tokens do not fit training.sequence_length={self.length}; "
                "raise it or leave the question out"
            )
        tokens = np.zeros(
            self.length, dtype=np.int64
        )  # padding lies after the answer, where causal models look not
        tokens[: len(asked)] = asked
        labels = np.full(self.length, IGNORED, dtype=np.int64)
        labels[len(asked) - 1] = asked[-1]
        return Example(tokens, labels, question.where)


@dataclass(frozen=True)
class Score:
    """Answers to a share of the questions; the sum over the ranks is the whole."""

    correct: int
    asked: int

    def __add__(self, other: Score) -> Score:
        return Score(self.correct + other.correct, self.asked + other.asked)

    @property
    def accuracy(self) -> float:
        return self.correct / self.asked


def held_out_score(
    model: Callable[..., Any],
    data: Data,
    training: Training,
    *,
    device: str | torch.device,
    rank: int,
    world_size: int,
) -> Score:
    """One rank's share of the answers to the questions of `data` that training never sees."""
    return multiple_choice_accuracy(
        model,
        held_out_questions(load_questions(data)),
        encoder=open_encoder(data),
        sequence_length=training.sequence_length,
        device=device,
        rank=rank,
        world_size=world_size,
    )


def multiple_choice_accuracy(
    model: Callable[..., Any],
    questions: Sequence[Question],
    *,
    encoder: Encoder,
    sequence_length: int,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world_size: int = 1,
) -> Score:
    """How many questions the model (or DeepSpeed engine) answers right: argmax over the tokens of A to D.

    Each rank asks every world_size-th question; all make the same number of forward passes, because under
    ZeRO-3 a forward pass is a collective. Put the model in eval mode first if it has dropout.
    """
    import torch

    examples = QuestionExamples(questions, encoder, sequence_length)
    correct = asked = 0
    with torch.no_grad():
        for start in range(0, len(questions), world_size):
            mine = start + rank
            guess = _guess(
                model, examples, mine % len(questions), device
            )  # a surplus rank asks again, uncounted
            if mine < len(questions):
                asked += 1
                correct += guess == questions[mine].answer
    return Score(correct, asked)


def _guess(
    model: Callable[..., Any], examples: QuestionExamples, index: int, device: str | torch.device
) -> str:
    import torch

    example, prompt = examples[index], examples.questions[index].prompt
    ids = [examples.encoder.encode(f"{prompt} {letter}")[-1] for letter in LETTERS]
    before = int(np.flatnonzero(example.labels != IGNORED)[0]) - 1
    logits = model(input_ids=torch.from_numpy(example.tokens)[None].to(device)).logits[0, before]
    return LETTERS[int(logits[ids].argmax().item())]


def _file_text(data: Data) -> str:
    """The text of the data's file, which must be the one that the run was planned with."""
    file = data_file(data)
    try:
        content = file.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        raise HarnessError(f"data.path: {_shown(file)} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise HarnessError(
            f"{_shown(file)}: byte {error.start} is not UTF-8 text; convert the file"
        ) from error
    if data.sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise HarnessError(
            f"data.sha256: {_shown(file)} is another text than the one that the run was planned with; "
            "put the old one back or run the study file anew"
        )
    return text


def _shown(file: Path) -> str:
    """Relative to the repository where it lies inside, so that messages are the same on every machine."""
    return str(file.relative_to(REPOSITORY)) if file.is_relative_to(REPOSITORY) else str(file)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
