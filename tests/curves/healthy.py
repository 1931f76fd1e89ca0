"""Recipes of healthy trainings, as many kinds as people have: each a function of a seed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.curves.small import Language, Text, Trainer, next_token

Recipe = Callable[[int], Trainer]


def generator(seed: int) -> torch.Generator:
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def language(seed: int, vocabulary: int = 128, batch: int = 8, length: int = 24, **settings: Any) -> Trainer:
    """Pretraining of a small decoder."""
    text = Text(vocabulary, generator(seed))
    model = Language(vocabulary, layers=settings.pop("layers", 1))
    return Trainer(model, lambda net, step: next_token(net, text.batch(batch, length)), **settings)


def pretrained(seed: int, vocabulary: int = 128) -> tuple[Language, Text]:
    """A model that has learnt its text, as fine-tunings begin with."""
    text = Text(vocabulary, generator(seed), sharp=3.0)
    model = Language(vocabulary)
    Trainer(model, lambda net, step: next_token(net, text.batch(16, 24)), steps=150, learning_rate=1e-2).run()
    return model, text


def finetuning(seed: int, batch: int = 4, sharp: float = 2.0, **settings: Any) -> Trainer:
    """A pretrained model on text that is a little different: a quick first step, then noise and a slow fall."""
    model, text = pretrained(seed)
    other = Text(len(text.chain), generator(seed + 1000), sharp=sharp)
    text.chain = 0.8 * text.chain + 0.2 * other.chain
    return Trainer(model, lambda net, step: next_token(net, text.batch(batch, 24)), **settings)


def overfitting(seed: int, **settings: Any) -> Trainer:
    """Eight lines again and again, to nothing; evaluation rises meanwhile."""
    text = Text(64, generator(seed))
    lines, others = text.batch(8, 12), text.batch(16, 12)
    return Trainer(
        Language(64, width=64),
        lambda net, step: next_token(net, lines),
        steps=120,
        learning_rate=1e-2,
        every=4,
        evaluate=lambda net: float(next_token(net, others).detach()),
        evaluate_every=20,
        **settings,
    )


class Lora(nn.Module):
    """A frozen linear map and a low-rank one beside it, which begins at zero."""

    def __init__(self, frozen: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, frozen.in_features) / rank)
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.frozen(hidden) + hidden @ self.down.T @ self.up.T


def lora(seed: int, **settings: Any) -> Trainer:
    """Only low-rank maps are trained, so that gradient norms grow at first."""
    trainer = finetuning(seed, **settings)
    model = trainer.model
    model.requires_grad_(False)
    model.head = Lora(model.head)
    return trainer


def classification(
    seed: int, classes: int = 3, batch: int = 16, noise: float = 1.0, **settings: Any
) -> Trainer:
    source = generator(seed)
    centres = torch.randn(classes, 16, generator=source)

    def loss(net: nn.Module, step: int) -> Tensor:
        label = torch.randint(classes, (batch,), generator=source)
        return F.cross_entropy(net(centres[label] + noise * torch.randn(batch, 16, generator=source)), label)

    return Trainer(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, classes)), loss, **settings)


def regression(seed: int, scale: float = 20.0, **settings: Any) -> Trainer:
    """A mean squared error, which begins wherever the targets are."""
    source = generator(seed)
    slope = scale * torch.randn(8, generator=source)

    def loss(net: nn.Module, step: int) -> Tensor:
        x = torch.randn(32, 8, generator=source)
        return F.mse_loss(net(x)[:, 0], x @ slope)

    return Trainer(nn.Linear(8, 1), loss, **{"learning_rate": 0.5, "clip": 0.0, **settings})


def denoising(seed: int, **settings: Any) -> Trainer:
    """Noise is predicted, as diffusion models do: from 1 down to a plateau."""
    source = generator(seed)

    def loss(net: nn.Module, step: int) -> Tensor:
        clean = torch.sin(torch.arange(16) * torch.rand(16, 1, generator=source))
        noise, level = torch.randn(16, 16, generator=source), torch.rand(16, 1, generator=source)
        return F.mse_loss(net(torch.sqrt(1 - level) * clean + torch.sqrt(level) * noise), noise)

    return Trainer(nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 16)), loss, **settings)


def policy(seed: int, rewarded: bool = True, **settings: Any) -> Trainer:
    """Group-relative policy gradient (GRPO) on a bandit: the loss is 0 on average, and the reward rises."""
    source = generator(seed)
    worth = torch.randn(8, generator=source)
    rewards: list[float] = []

    def loss(net: nn.Module, step: int) -> Tensor:
        odds = torch.log_softmax(net(torch.ones(1, 4)), 1)[0]
        action = torch.multinomial(odds.detach().exp(), 8, replacement=True, generator=source)
        reward = worth[action] + 0.1 * torch.randn(8, generator=source)
        rewards.append(float(reward.mean()))
        advantage = (reward - reward.mean()) / (reward.std() + 1e-4)
        ratio = (odds[action] - odds[action].detach()).exp()
        return -(ratio * advantage).mean()

    columns = {"reward": lambda step: rewards[-1]} if rewarded else {}
    return Trainer(nn.Linear(4, 8), loss, columns=columns, **{"learning_rate": 2e-2, **settings})


def preference(seed: int, **settings: Any) -> Trainer:
    """Direct preference optimisation (DPO): begins at ln 2 exactly, as policy and reference are one model."""
    source = generator(seed)
    net = nn.Linear(16, 1)
    reference = copy.deepcopy(net)
    taste = torch.randn(16, generator=source)

    def loss(model: nn.Module, step: int) -> Tensor:
        a, b = torch.randn(2, 16, 16, generator=source)
        better = torch.where((a @ taste > b @ taste)[:, None], a, b)
        worse = a + b - better
        margin = (model(better) - reference(better)) - (model(worse) - reference(worse))
        return -F.logsigmoid(margin).mean()

    return Trainer(net, loss, **{"learning_rate": 1e-2, **settings})


def contrastive(seed: int, batch: int = 16, **settings: Any) -> Trainer:
    """Pairs are found among others: from the logarithm of the batch size down."""
    source = generator(seed)

    def loss(net: nn.Module, step: int) -> Tensor:
        x = torch.randn(batch, 16, generator=source)
        a, b = (F.normalize(net(x + 0.3 * torch.randn(batch, 16, generator=source)), dim=1) for _ in range(2))
        return F.cross_entropy(a @ b.T / 0.1, torch.arange(batch))

    return Trainer(nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16)), loss, **settings)


def epochs(seed: int, **settings: Any) -> Trainer:
    """Few lines in several epochs: the loss falls in stairs."""
    model, _ = pretrained(seed)
    lines = Text(128, generator(seed + 500)).batch(40, 16)
    return Trainer(
        model,
        lambda net, step: next_token(net, lines[step % 10 * 4 : step % 10 * 4 + 4]),
        steps=40,
        **settings,
    )


def curriculum(seed: int, **settings: Any) -> Trainer:
    """Harder text from the middle on: the loss rises once, and falls again."""
    easy, hard = Text(128, generator(seed), sharp=4.0), Text(128, generator(seed + 1), sharp=1.5)
    return Trainer(
        Language(128),
        lambda net, step: next_token(net, (easy if step < 30 else hard).batch(8, 16)),
        steps=60,
        learning_rate=1e-2,
        every=2,
        **settings,
    )


def new_domain(seed: int, **settings: Any) -> Trainer:
    """Other text from one third on, as blended corpora have it: the loss jumps to a new level and falls from there."""
    first, second = Text(128, generator(seed), sharp=5.0), Text(128, generator(seed + 1), sharp=2.5)
    return Trainer(
        Language(128),
        lambda net, step: next_token(net, (first if step < 40 else second).batch(8, 16)),
        steps=120,
        learning_rate=1e-2,
        **settings,
    )


def spiky(seed: int, **settings: Any) -> Trainer:
    """Now and then a batch of noise: a high loss that is gone in the next step."""
    source = generator(seed)
    text = Text(128, source, sharp=3.0)

    def loss(net: nn.Module, step: int) -> Tensor:
        noise = torch.randint(128, (8, 25), generator=source)
        return next_token(net, noise if step % 13 == 9 else text.batch(8, 24))

    return Trainer(Language(128), loss, steps=40, learning_rate=1e-2, **settings)


TUNED: dict[str, Recipe] = {
    "pretraining, every step": lambda s: language(s, steps=30, schedule="cosine", warmup=5),
    "pretraining, every 10": lambda s: language(s, steps=200, every=10, learning_rate=5e-3),
    "pretraining, fp16": lambda s: language(s, steps=40, scale=2.0**16 * 64, learning_rate=5e-3),
    "pretraining, large vocabulary": lambda s: language(s, vocabulary=2048, steps=30, learning_rate=1e-2),
    "fine-tuning": lambda s: finetuning(s, steps=24, learning_rate=1e-3),
    "fine-tuning, batch of one": lambda s: finetuning(s, batch=1, steps=24, learning_rate=3e-4),
    "fine-tuning, short": lambda s: finetuning(s, steps=8, learning_rate=2e-3),
    "LoRA": lambda s: lora(s, steps=40, learning_rate=1e-2),
    "overfitting": overfitting,
    "classification": lambda s: classification(s, steps=30, learning_rate=1e-2),
    "regression": lambda s: regression(s, steps=30),
    "GRPO": lambda s: policy(s, steps=40),
    "DPO": lambda s: preference(s, steps=30),
    "new domain": new_domain,
    "new domain, every 5": lambda s: new_domain(s + 10, every=5),
    "epochs": lambda s: epochs(s, learning_rate=3e-3),
}
HELD_OUT: dict[str, Recipe] = {
    "pretraining, accumulated": lambda s: language(s, steps=24, accumulation=4, batch=2),
    "pretraining, SGD": lambda s: language(s, steps=60, every=5, optimizer="sgd", learning_rate=0.3),
    "pretraining, deeper": lambda s: language(s, steps=40, layers=3, learning_rate=2e-3, schedule="linear"),
    "fine-tuning, fp16": lambda s: finetuning(s, steps=30, scale=2.0**16 * 1024, learning_rate=1e-3),
    "fine-tuning, far text": lambda s: finetuning(s, sharp=6.0, batch=2, steps=20, learning_rate=3e-3),
    "LoRA, slow warm-up": lambda s: lora(s, steps=60, warmup=40, learning_rate=2e-2, every=2),
    "classification, noisy": lambda s: classification(s, classes=2, batch=4, noise=3.0, steps=40),
    "regression, large": lambda s: regression(s, scale=200.0, steps=40, learning_rate=3.0),
    "denoising": lambda s: denoising(s, steps=40, learning_rate=3e-3),
    "GRPO, loss alone": lambda s: policy(s, rewarded=False, steps=30),
    "DPO, slow": lambda s: preference(s, steps=15, warmup=10, learning_rate=1e-4),
    "contrastive": lambda s: contrastive(s, steps=40, learning_rate=3e-3),
    "curriculum": curriculum,
    "spiky": spiky,
}
