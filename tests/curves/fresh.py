"""Recipes that were written after the rules of triage stood: the third part, judged before mending for it."""

from __future__ import annotations

import copy
import math
from typing import Any

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
    large_values,
    outdated,
    pile_up,
    poison,
    torn_bucket,
    with_hooks,
    with_zero,
    zeros,
)
from tests.curves.healthy import Recipe, epochs, finetuning, generator, language, lora, policy
from tests.curves.small import Language, Text, Trainer, next_token


class Recurrent(nn.Module):
    """A GRU over tokens, with dropout."""

    def __init__(self, vocabulary: int, width: int = 48) -> None:
        super().__init__()
        self.embedding, self.cells = nn.Embedding(vocabulary, width), nn.GRU(width, width, batch_first=True)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.drop(self.cells(self.embedding(tokens))[0]))


def recurrent(seed: int) -> Trainer:
    text = Text(64, generator(seed), sharp=3.0)
    return Trainer(Recurrent(64), lambda net, step: next_token(net, text.batch(8, 20)), steps=45, every=3)


def masked_language(seed: int) -> Trainer:
    """One token in five is hidden and guessed from all others."""
    source = generator(seed)
    text = Text(80, source, sharp=3.0)

    def loss(net: nn.Module, step: int) -> Tensor:
        tokens = text.batch(8, 20)
        hidden = torch.rand(tokens.shape, generator=source) < 0.2
        logits = net(tokens.masked_fill(hidden, 79))
        return F.cross_entropy(logits[hidden], tokens[hidden])

    return Trainer(Recurrent(80), loss, steps=35, learning_rate=5e-3)


def alignment(seed: int) -> Trainer:
    """Connectionist temporal classification: a sum over a sequence, which begins high."""
    source = generator(seed)

    def loss(net: nn.Module, step: int) -> Tensor:
        labels = torch.randint(1, 12, (4, 6), generator=source)
        heard = F.one_hot(labels.repeat_interleave(5, 1), 12).float()
        odds = net(heard + 0.3 * torch.randn(heard.shape, generator=source)).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(odds, labels, torch.full((4,), 30), torch.full((4,), 6), reduction="sum")

    return Trainer(nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 12)), loss, steps=40)


def reward_model(seed: int) -> Trainer:
    source = generator(seed)
    taste = torch.randn(12, generator=source)

    def loss(net: nn.Module, step: int) -> Tensor:
        a, b = torch.randn(2, 4, 12, generator=source)
        sign = torch.sign(a @ taste - b @ taste)[:, None]
        return -F.logsigmoid(sign * (net(a) - net(b))).mean()

    return Trainer(
        nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 1)), loss, steps=30, learning_rate=1e-2
    )


def rare_class(seed: int) -> Trainer:
    """One example in twenty is of the other class: small losses, and a spike where some come together."""
    source = generator(seed)

    def loss(net: nn.Module, step: int) -> Tensor:
        rare = (torch.rand(8, generator=source) < 0.05).long()
        x = torch.randn(8, 10, generator=source) + 1.5 * rare[:, None]
        return F.cross_entropy(net(x), rare)

    return Trainer(nn.Linear(10, 2), loss, steps=60, learning_rate=2e-2)


def distillation(seed: int) -> Trainer:
    source = generator(seed)
    teacher = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 20)).requires_grad_(False)

    def loss(net: nn.Module, step: int) -> Tensor:
        x = torch.randn(16, 10, generator=source)
        return F.kl_div(
            net(x).log_softmax(1), (3 * teacher(x)).log_softmax(1), log_target=True, reduction="batchmean"
        )

    return Trainer(
        nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 20)), loss, steps=40, learning_rate=1e-2
    )


def adversarial(seed: int) -> Trainer:
    """A discriminator against data that drift: its loss neither falls nor rises."""
    source = generator(seed)

    def loss(net: nn.Module, step: int) -> Tensor:
        drift = math.sin(step / 5)
        x = torch.randn(32, 6, generator=source)
        real = torch.cat([torch.ones(16), torch.zeros(16)])[:, None]
        return F.binary_cross_entropy_with_logits(net(x + drift * (real - 0.5)), real)

    return Trainer(nn.Linear(6, 1), loss, steps=50, learning_rate=1e-2)


def triplet(seed: int) -> Trainer:
    """A margin loss, which is exactly 0 where a batch is told apart already."""
    source = generator(seed)

    def loss(net: nn.Module, step: int) -> Tensor:
        centre = torch.randn(2, 4, 8, generator=source)
        near = centre[0] + 0.3 * torch.randn(4, 8, generator=source)
        return F.triplet_margin_loss(net(centre[0]), net(near), net(centre[1]), margin=1.0)

    return Trainer(nn.Linear(8, 8), loss, steps=40, learning_rate=3e-2)


def restarts(seed: int) -> Trainer:
    """A cosine schedule with warm restarts: the loss rises a little at each."""
    trainer = language(seed, steps=60, learning_rate=1e-2)
    trainer.rate = lambda step: 1e-2 * (0.55 + 0.45 * math.cos(math.pi * (step % 20) / 20))  # type: ignore[method-assign]
    return trainer


def two_tasks(seed: int) -> Trainer:
    """A sum of a language loss and of a regression, weighted for size."""
    source = generator(seed)
    text = Text(64, source)

    def loss(net: nn.Module, step: int) -> Tensor:
        tokens = text.batch(8, 16)
        shift = F.mse_loss(net(tokens[:, :-1]).mean((1, 2)), 5 + 0.1 * torch.randn(8, generator=source))
        return next_token(net, tokens) + shift

    return Trainer(Language(64), loss, steps=50, learning_rate=1e-2)


HEALTHY: dict[str, Recipe] = {
    "recurrent": recurrent,
    "masked language": masked_language,
    "alignment": alignment,
    "reward model": reward_model,
    "rare class": rare_class,
    "distillation": distillation,
    "adversarial": adversarial,
    "triplet": triplet,
    "warm restarts": restarts,
    "two tasks": two_tasks,
    "LoRA, batch of one": lambda s: lora(s, batch=1, steps=30, warmup=5, learning_rate=5e-3),
    "epochs, every 5": lambda s: epochs(s, every=5, learning_rate=1e-2),
    "pretraining, fp16 late": lambda s: language(s, steps=50, scale=2.0**13, learning_rate=3e-3, every=2),
}


def unwritten_zeros(seed: int) -> Trainer:
    """Missing copy where fresh memory happens to be zero: finite, and wrong."""
    source = torch.Generator().manual_seed(seed)
    kept: list[Any] = []

    def before(one: Trainer, step: int) -> None:
        kept[:] = [copy.deepcopy(one.model.state_dict())]
        poison(one.model, 0.05, 0.0, source)

    return with_hooks(
        finetuning(seed, steps=20, learning_rate=1e-3),
        before_forward=before,
        after_backward=lambda one, step: one.model.load_state_dict(kept[0]),
    )


def undone(seed: int) -> Trainer:
    """The first update writes back the weights from before the load."""
    trainer = finetuning(seed, steps=14, learning_rate=1e-8)
    torch.manual_seed(seed + 31)
    random = {name: 2.0 * value for name, value in Language(128).state_dict().items()}

    def after(one: Trainer, step: int) -> None:
        if step == 0:
            one.model.load_state_dict(random)

    return with_hooks(trainer, after_step=after)


def shifted(seed: int) -> Trainer:
    """Weights are read from the wrong place of a fetched buffer."""
    trainer = finetuning(seed, steps=16, learning_rate=1e-4)

    def before(one: Trainer, step: int) -> None:
        if step == 0:
            with torch.no_grad():
                for weight in one.model.parameters():
                    weight.copy_(weight.flatten().roll(7).view_as(weight))

    return with_hooks(trainer, before_forward=before)


def alike(seed: int) -> Trainer:
    """Every answer has the same reward."""
    trainer = policy(seed, steps=12)
    sound = trainer.loss
    trainer.loss = lambda net, step: 0.0 * sound(net, step)
    return trainer


def gradients_alone(trainer: Trainer) -> Trainer:
    trainer.run()
    trainer.rows = [{"step": row["step"], "grad_norm": row["grad_norm"]} for row in trainer.rows]
    return trainer


COMPILED = known(ZERO2, "0.19.1", facts=["compile"])
FETCHED = with_zero(ZERO3, stage3_use_all_reduce_for_fetch_params=True)
FAULTY: dict[str, Faulty] = {
    "race, garbage is 0": Faulty(
        lambda s: early_gather(s, 0.0, 0.5), ("race",), "race", known(HPZ, "0.13.3")
    ),
    "race, NaN, every third": Faulty(
        lambda s: early_gather(s, math.nan, 0.35, first=5), ("race",), "race", known(HPZ, "0.10.0")
    ),
    "missing copy, zeros": Faulty(
        unwritten_zeros, ("missing copy", "race"), "missing copy", known(HPZ, "0.13.4", numels=(1001, 4096))
    ),
    "stale, deeper": Faulty(
        lambda s: outdated(s, layers=2, steps=24),
        ("stale secondary",),
        "stale secondary",
        known(HPZ, "0.11.2"),
    ),
    "load undone": Faulty(undone, ("load undone",), "load undone", known(ZERO2, "0.19.8")),
    "offload, no release": Faulty(
        lambda s: zeros(s, 1024, steps=9),
        ("offload",),
        "offload",
        {**known(with_zero(HPZ, offload_param=CPU), None), "world_size": None},
    ),
    "bucket index": Faulty(
        lambda s: frozen(torn_bucket(s, 1.0, 2), math.sqrt(2)),
        OVERLAP,
        "ZeRO-1/2 overlap",
        known(ZERO2, "0.17.3"),
    ),
    "compiled": Faulty(lambda s: torn_bucket(s, 1.0, 0), OVERLAP, "ZeRO-1/2 overlap", COMPILED),
    "ZeRO-2, gradients alone": Faulty(
        lambda s: gradients_alone(torn_bucket(s, 0.4, 4)), OVERLAP, "ZeRO-1/2 overlap", known(ZERO2, "0.18.4")
    ),
    "learning rate 0, accumulated": Faulty(
        lambda s: language(s, steps=40, accumulation=2, every=10, schedule="zero"),
        ("learning rate 0",),
        "learning rate 0",
        known(ZERO3, "0.16.9"),
    ),
    "LoRA, rate too high": Faulty(
        lambda s: lora(s, steps=30, learning_rate=3.0, clip=0.0),
        ("plain instability",),
        "instability",
        known(ZERO3, "0.19.8"),
    ),
    "bf16 without ZeRO, Adam": Faulty(
        pile_up,
        ("bf16 without ZeRO",),
        "bf16 without ZeRO",
        known({"bf16": {"enabled": True}, "zero_optimization": {"stage": 0}}, "0.18.2"),
    ),
    "hang, later": Faulty(
        lambda s: language(s, steps=40),
        ("stopped", "hang"),
        "stopped",
        known(ZERO3, "0.16.9"),
        silence=3600.0,
        keep=31,
    ),
    "fp16 overflow, hpZ": Faulty(
        lambda s: large_values(s, 1e12),
        ("fp16 overflow",),
        "fp16 overflow",
        known({**with_zero(HPZ), "bf16": {"enabled": False}, "fp16": {"enabled": True}}, "0.19.8"),
    ),
    "no advantage": Faulty(alike, ("no advantage",), "no advantage", known(ZERO3, "0.19.8")),
    "shifted weights": Faulty(
        shifted,
        ("all-reduce fetch",),
        "all-reduce fetch",
        known(FETCHED, "0.16.0", numels=(1001, 4096), vocabulary=128),
    ),
}
