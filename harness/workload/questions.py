"""Multiple-choice questions in MMLU's format: reading them, asking them, and which are kept from training.

MMLU: Hendrycks et al., arXiv 2009.03300.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from harness.system.errors import HarnessError

LETTERS = "ABCD"
HELD_OUT_EVERY = 5  # each fifth question is kept from training and asked at the end


@dataclass(frozen=True)
class Question:
    """A multiple-choice question; `answer` is one of A, B, C, D."""

    text: str
    choices: tuple[str, str, str, str]
    answer: str
    subject: str
    where: str

    @property
    def prompt(self) -> str:
        """The question as MMLU's public harness asks it, without worked examples."""
        about = f" about {self.subject.replace('_', ' ')}" if self.subject else ""
        head = f"The following are multiple choice questions (with answers){about}.\n\n{self.text}"
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=True)]
        return "\n".join([head, *lines, "Answer:"])


def parse_questions(text: str, *, name: str, json_lines: bool) -> tuple[Question, ...]:
    """Questions from CSV (question,A,B,C,D,answer[,subject]; header or not) or JSON lines of those keys.

    `name` is the file's, for messages and as the subject where a row has none. Raises HarnessError naming the
    line.
    """
    rows = _json_rows(text, name) if json_lines else _csv_rows(text)
    subject = PurePath(name).stem
    questions = tuple(_question(row, f"{name}: line {line}", subject) for line, row in rows)
    if len(questions) < HELD_OUT_EVERY:
        raise HarnessError(f"{name}: {len(questions)} questions are too few; give at least {HELD_OUT_EVERY}")
    return questions


def training_questions(questions: Sequence[Question]) -> tuple[Question, ...]:
    """Those to train on: all but each fifth."""
    return tuple(q for index, q in enumerate(questions, 1) if index % HELD_OUT_EVERY)


def held_out_questions(questions: Sequence[Question]) -> tuple[Question, ...]:
    """Those that training never sees: each fifth."""
    return tuple(questions[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    names = ["question", *LETTERS, "answer", "subject"]
    reader = csv.reader(io.StringIO(text, newline=""))
    for first, cells in enumerate(row for row in reader if row):
        if first == 0 and cells[0].strip().lower() == "question":
            names = [cell.strip() for cell in cells]
            continue
        yield reader.line_num, dict(zip(names, cells, strict=False))


def _json_rows(text: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise HarnessError(f"{name}: line {line}: not JSON ({error.msg}); one object a line") from error
        if not isinstance(row, dict):
            raise HarnessError(f"{name}: line {line}: not an object; one object a line")
        choices = row.pop("choices", None)  # the Hub's form of MMLU
        yield line, row | (dict(zip(LETTERS, choices, strict=False)) if isinstance(choices, list) else {})


def _question(row: Mapping[str, Any], where: str, default_subject: str) -> Question:
    for key in ("question", *LETTERS, "answer"):
        value = row.get(key)
        if value is None or value != value or not str(value).strip():  # NaN differs from itself
            raise HarnessError(f"{where}: {key!r} is missing; a row has question, A, B, C, D, answer")
    answer = str(row["answer"]).strip().upper()
    answer = LETTERS[int(answer)] if answer in ("0", "1", "2", "3") else answer
    if answer not in LETTERS or len(answer) != 1:
        raise HarnessError(f"{where}: answer {row['answer']!r} is none of A, B, C, D (or 0 to 3)")
    a, b, c, d = (str(row[letter]).strip() for letter in LETTERS)
    subject = str(row.get("subject") or default_subject)
    return Question(str(row["question"]).strip(), (a, b, c, d), answer, subject, where)
