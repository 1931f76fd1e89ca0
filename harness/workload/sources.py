"""Sources of examples, as tokens: the standard library, a text file, Hugging Face data, multiple-choice questions."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.corpus import Encoder
from harness.study import Data, data_file
from harness.study.text import stdlib_sha256
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.workload.questions import Question, parse_questions
from harness.workload.stdlib_text import stdlib_tokens

IGNORED = -100  # label of a token that the loss leaves out (PyTorch's cross_entropy)
SHUFFLE_BUFFER = 1000  # documents of a stream that are shuffled among themselves


@dataclass(frozen=True)
class Example:
    """One sequence: tokens and labels, each (sequence_length,), and where it comes from (file and row)."""

    tokens: Tokens
    labels: Tokens
    where: str


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
            stream = load_dataset(
                self.data.path,
                self.data.name,
                split=self.data.split,
                revision=self.data.revision,
                streaming=True,
            )
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


Tokens = npt.NDArray[np.int64]
