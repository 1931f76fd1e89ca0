"""The score of a finetune: the share of held-out multiple-choice questions that the model answers rightly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.corpus import Encoder, open_encoder
from harness.study import Data, Training
from harness.workload.questions import LETTERS, Question, held_out_questions
from harness.workload.sources import IGNORED, QuestionExamples, load_questions

if TYPE_CHECKING:
    import torch


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
        encoder=open_encoder(data.tokenizer),
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
