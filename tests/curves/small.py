"""Small trainings on one CPU core: models, data, and a loop that logs as Hugging Face's Trainer does.

Everything is drawn from one generator a curve, so that a curve can be made again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[[nn.Module, int], Tensor]
"""Model and step to the loss of its batch."""
Hook = Callable[["Trainer", int], None]


class Language(nn.Module):
    """A small decoder: embedding, `layers` blocks of causal attention and a feed-forward net, and a head."""

    def __init__(self, vocabulary: int, width: int = 32, layers: int = 1) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [batch, length] to logits [batch, length, vocabulary]."""
        mask = torch.full((tokens.shape[1],) * 2, -math.inf).triu(1)
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask)
        return self.head(hidden)


class Text:
    """Tokens of a Markov chain: learnable, and never quite."""

    def __init__(self, vocabulary: int, generator: torch.Generator, sharp: float = 2.0) -> None:
        self.generator = generator
        self.chain = torch.softmax(sharp * torch.randn(vocabulary, vocabulary, generator=generator), 1)

    def batch(self, size: int, length: int) -> Tensor:
        """Token ids [size, length + 1]."""
        tokens = [torch.randint(len(self.chain), (size,), generator=self.generator)]
        for _ in range(length):
            tokens.append(torch.multinomial(self.chain[tokens[-1]], 1, generator=self.generator)[:, 0])
        return torch.stack(tokens, 1)


def next_token(model: nn.Module, tokens: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Mean cross-entropy; `ignored` marks labels that do not count, as -100 does."""
    labels = tokens[:, 1:].clone()
    if ignored is not None:
        labels[ignored] = -100
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), labels.flatten(), ignore_index=-100)


@dataclass
class Trainer:
    """A training loop and what it logs; `hooks` run at its places and may break it."""

    model: nn.Module
    loss: Loss
    steps: int = 24
    learning_rate: float = 3e-3
    schedule: str = "constant"
    """constant, linear, cosine or zero."""
    warmup: int = 0
    optimizer: str = "adamw"
    clip: float = 1.0
    accumulation: int = 1
    every: int = 1
    """Steps between logged lines; a line has the mean loss since the last one."""
    scale: float = 0.0
    """First loss scale of an fp16 training: gradients are rounded to fp16 at that scale. 0: none."""
    filters_nan: bool = True
    """Whether a loss that is not finite is left out of the mean, as Hugging Face's Trainer does."""
    evaluate: Callable[[nn.Module], float] | None = None
    evaluate_every: int = 0
    before_forward: Hook | None = None
    after_backward: Hook | None = None
    after_step: Hook | None = None
    columns: dict[str, Callable[[int], float]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    def rate(self, step: int) -> float:
        if self.schedule == "zero":
            return 0.0
        if step < self.warmup:
            return self.learning_rate * step / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        factor = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}.get(self.schedule, 1.0)
        return self.learning_rate * factor

    def run(self) -> Trainer:
        weights = [one for one in self.model.parameters() if one.requires_grad]
        optimizer = self._optimizer(weights)
        total, counted = 0.0, 0
        for step in range(self.steps):
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step)
            loss = 0.0
            optimizer.zero_grad()
            for _ in range(self.accumulation):
                if self.before_forward:
                    self.before_forward(self, step)
                one = self.loss(self.model, step)
                (one / self.accumulation).backward()
                loss += float(one.detach()) / self.accumulation
            if self.after_backward:
                self.after_backward(self, step)
            norm = self._step(optimizer, weights)
            if self.after_step:
                self.after_step(self, step)
            total, counted = self._log(step, loss, norm, total, counted)
            if self.evaluate and self.evaluate_every and (step + 1) % self.evaluate_every == 0:
                self.evaluations.append({"step": step + 1, "eval_loss": round(self.evaluate(self.model), 4)})
        return self

    def _optimizer(self, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD(weights, lr=self.learning_rate, momentum=0.9)
        return torch.optim.AdamW(weights, lr=self.learning_rate, weight_decay=0.01)

    def _step(self, optimizer: torch.optim.Optimizer, weights: list[nn.Parameter]) -> float:
        """Takes the step, but for an overflow in fp16, and gives the gradient's norm."""
        grads = [one.grad for one in weights if one.grad is not None]
        if self.scale:
            for grad in grads:
                grad.copy_((grad * self.scale).half().float() / self.scale)
            if not all(torch.isfinite(grad).all() for grad in grads):
                self.scale = max(self.scale / 2, 1.0)
                return math.inf
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in grads])))
        if self.clip and norm > self.clip:
            for grad in grads:
                grad.mul_(self.clip / norm)
        optimizer.step()
        return norm

    def _log(self, step: int, loss: float, norm: float, total: float, counted: int) -> tuple[float, int]:
        if math.isfinite(loss) or not self.filters_nan:
            total += loss
        elif counted:
            total += total / counted  # Hugging Face's way: the mean so far in place of what is not finite
        counted += 1
        if (step + 1) % self.every:
            return total, counted
        self.rows.append(
            {
                "step": step + 1,
                "loss": round(total / counted, 4),
                "grad_norm": float(f"{norm:.5g}"),
                "learning_rate": float(f"{self.rate(step):.4g}"),
                **{name: round(value(step), 4) for name, value in self.columns.items()},
            }
        )
        return 0.0, 0
