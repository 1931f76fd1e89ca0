"""Recipes that were written last: the part of the set that is held out. No rule of triage was changed for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.curves.faulty import (
    CPU,
    HPZ,
    OVERLAP,
    ZERO2,
    ZERO3,
    Faulty,
    early_gather,
    frozen,
    known,
    torn_bucket,
    unwritten,
    with_hooks,
    with_zero,
    zeros,
)
from tests.curves.healthy import Recipe, classification, generator, language, policy
from tests.curves.small import Language, Text, Trainer, next_token


def variational(seed: int) -> Trainer:
    """A sum over 64 pixels and a divergence: begins near 45 and ends on a plateau."""
    source = generator(seed)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inward, self.outward = nn.Linear(64, 8), nn.Linear(4, 64)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean, spread = self.inward(x).chunk(2, 1)
            sample = mean + torch.exp(spread / 2) * torch.randn(mean.shape, generator=source)
            return self.outward(sample), mean, spread

    def loss(net: nn.Module, step: int) -> Tensor:
        x = (torch.rand(32, 1, generator=source) + 0.1 * torch.randn(32, 64, generator=source) > 0.5).float()
        out, mean, spread = net(x)
        kl = -0.5 * (1 + spread - mean**2 - spread.exp()).sum(1).mean()
        return F.binary_cross_entropy_with_logits(out, x, reduction="none").sum(1).mean() + kl

    return Trainer(Net(), loss, steps=60, learning_rate=1e-2, every=2)


def hinge(seed: int) -> Trainer:
    """A margin between two classes: small losses, now and then exactly 0."""
    source = generator(seed)

    def loss(net: nn.Module, step: int) -> Tensor:
        sign = torch.sign(torch.randn(2, 1, generator=source))
        return F.relu(1 - sign * net(1.5 * sign + torch.randn(2, 6, generator=source))).mean()

    return Trainer(nn.Linear(6, 1), loss, steps=40, learning_rate=2e-2)


def poisson(seed: int) -> Trainer:
    """Counts: a likelihood whose values are negative."""
    source = generator(seed)
    slope = 0.3 * torch.randn(6, generator=source)

    def loss(net: nn.Module, step: int) -> Tensor:
        x = torch.randn(32, 6, generator=source)
        return F.poisson_nll_loss(net(x)[:, 0], torch.poisson(torch.exp(x @ slope + 2.5), generator=source))

    return Trainer(nn.Linear(6, 1), loss, steps=40, learning_rate=5e-2)


def value(seed: int) -> Trainer:
    """A value function whose targets move away: the loss rises slowly, and falls again."""
    source = generator(seed)

    def loss(net: nn.Module, step: int) -> Tensor:
        x = torch.randn(16, 6, generator=source)
        target = (2 + 2 * math.sin(step / 12)) * x[:, 0] + torch.randn(16, generator=source)
        return F.smooth_l1_loss(net(x)[:, 0], target)

    return Trainer(nn.Linear(6, 1), loss, steps=70, learning_rate=3e-2)


def smoothed(seed: int) -> Trainer:
    """Labels that are smoothed: the loss stands on a floor from early on."""
    source = generator(seed)

    def loss(net: nn.Module, step: int) -> Tensor:
        label = torch.randint(4, (16,), generator=source)
        x = F.one_hot(label, 4).float() + 0.05 * torch.randn(16, 4, generator=source)
        return F.cross_entropy(net(x), label, label_smoothing=0.2)

    return Trainer(nn.Linear(4, 4), loss, steps=120, learning_rate=5e-2, every=3)


def often_without_gradient(seed: int) -> Trainer:
    """GRPO in which many groups have one reward, so that some steps have no gradient."""
    trainer = policy(seed, steps=30)
    sound, source = trainer.loss, torch.Generator().manual_seed(seed)
    trainer.loss = lambda net, step: sound(net, step) * float(torch.rand(1, generator=source) > 0.6)
    return trainer


def plateau(seed: int) -> Trainer:
    """The end of a long training, at a rate that has decayed to nearly nothing."""
    return language(seed, steps=400, every=20, learning_rate=1e-2, schedule="cosine")


def overflowing_later(seed: int) -> Trainer:
    """fp16 with a scale that is doubled once too often: single steps are skipped."""
    trainer = language(seed, steps=60, learning_rate=3e-3, scale=2.0**10)

    def after(one: Trainer, step: int) -> None:
        if step in (25, 48):
            one.scale = 2.0**20

    return with_hooks(trainer, before_forward=after)


HEALTHY: dict[str, Recipe] = {
    "variational": variational,
    "hinge": hinge,
    "poisson": poisson,
    "value": value,
    "smoothed labels": smoothed,
    "GRPO, often without gradient": often_without_gradient,
    "plateau": plateau,
    "pretraining, fp16 overflowing later": overflowing_later,
    "classification, small rate": lambda s: classification(s, steps=25, learning_rate=1e-4),
    "pretraining, tiny vocabulary": lambda s: language(s, vocabulary=8, steps=30, batch=2),
}


def warmed_up_too_far(seed: int) -> Trainer:
    """A warm-up to a rate that is far too high: it learns, and then blows up."""
    return language(seed, steps=60, learning_rate=20.0, warmup=60, optimizer="sgd", clip=0.0)


def masked_later(seed: int) -> Trainer:
    """Every label is masked, with the gradient norm that such a batch has."""
    text = Text(64, torch.Generator().manual_seed(seed))

    def loss(net: nn.Module, step: int) -> Tensor:
        return next_token(net, text.batch(4, 12), torch.ones(4, 12, dtype=torch.bool))

    return Trainer(Language(64), loss, steps=7, every=1)


def nan_backward(seed: int) -> Trainer:
    """The first backward gives NaN in one weight."""

    def after(one: Trainer, step: int) -> None:
        next(one.model.parameters()).grad.view(-1)[0] = math.nan

    return with_hooks(language(seed, steps=8, clip=0.0), after_backward=after)


FAULTY: dict[str, Faulty] = {
    "race, NaN, late": Faulty(
        lambda s: early_gather(s, math.nan, 0.3, first=14), ("race",), "race", known(HPZ, "0.13.4")
    ),
    "missing copy, odd world": Faulty(
        lambda s: unwritten(s, 9),
        ("missing copy",),
        "missing copy",
        {**known(HPZ, "0.12.1"), "world_size": 24},
    ),
    "offload, short": Faulty(
        lambda s: zeros(s, 4096, steps=6),
        ("offload",),
        "offload",
        known(with_zero(HPZ, offload_param=CPU), "0.17.0"),
    ),
    "ZeRO-1, 0.13.1": Faulty(
        lambda s: torn_bucket(s, 0.5, 6),
        OVERLAP,
        "ZeRO-1/2 overlap",
        known(with_zero(ZERO2, stage=1), "0.13.1"),
    ),
    "ZeRO-2, frozen at 1": Faulty(
        lambda s: frozen(torn_bucket(s, 1.0, 1), 1.0), OVERLAP, "ZeRO-1/2 overlap", known(ZERO2, "0.12.5")
    ),
    "warmed up too far": Faulty(
        warmed_up_too_far, ("plain instability",), "instability", known(ZERO3, "0.19.8")
    ),
    "labels masked, short": Faulty(
        masked_later, ("nothing to predict",), "nothing to predict", known(ZERO2, "0.19.8")
    ),
    "NaN in the backward": Faulty(
        nan_backward, ("first backward",), "first backward", known(ZERO3, "0.19.8")
    ),
    "learning rate 0, nothing known": Faulty(
        lambda s: classification(s, steps=15, schedule="zero"), ("learning rate 0",), "learning rate 0"
    ),
    "no step, ZeRO-3": Faulty(
        lambda s: classification(s, steps=1), ("stopped",), "stopped", known(ZERO3, "0.19.8"), keep=0
    ),
}
