"""Recipes of faulty trainings: each fault is done to a training as DeepSpeed, its settings or the data do it.

Beside a curve stands what its owner would know: configuration, release, number of ranks. Faults of hpZ are injected
here as they act on one rank (what is gathered is old, partly unwritten, or zero); runs of real DeepSpeed with the same
faults come from the virtual device (tests.curves.make).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tests.curves.healthy import classification, finetuning, language, pretrained
from tests.curves.small import Language, Text, Trainer, next_token

HPZ = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8}}
ZERO2 = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 2, "overlap_comm": True}}
ZERO3 = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}


@dataclass(frozen=True)
class Faulty:
    """A training with a fault; `right` holds the ids that name it rightly, `known` what its owner knows."""

    make: Callable[[int], Trainer]
    right: tuple[str, ...]
    kind: str
    known: dict[str, Any] = field(default_factory=dict)
    silence: float | None = None
    keep: int | None = None
    """How many rows were logged before it stopped."""


def known(config: dict[str, Any], release: str | None, **more: Any) -> dict[str, Any]:
    return {"config": config, "release": release, "world_size": 16, "ranks_per_node": 8, **more}


def with_zero(config: dict[str, Any], **keys: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    changed["zero_optimization"] |= keys
    return changed


def with_hooks(trainer: Trainer, **hooks: Any) -> Trainer:
    for name, hook in hooks.items():
        setattr(trainer, name, hook)
    return trainer


def poison(model: nn.Module, share: float, value: float, source: torch.Generator) -> None:
    """Overwrite a share of the last weights of every parameter, as a copy that falls short leaves them."""
    with torch.no_grad():
        for weight in model.parameters():
            count = int(share * weight.numel())
            if count:
                weight.view(-1)[-count:] = value


def early_gather(seed: int, value: float, chance: float, first: int = 0) -> Trainer:
    """Race: in some steps the weights are read before they are written, so that part of them is what memory held."""
    source = torch.Generator().manual_seed(seed)
    trainer = finetuning(seed, steps=24, learning_rate=1e-3)
    kept: list[Any] = []

    def before(one: Trainer, step: int) -> None:
        kept.clear()
        if step >= first and float(torch.rand(1, generator=source)) < chance:
            kept.append(copy.deepcopy(one.model.state_dict()))
            poison(one.model, 0.3, value, source)

    def after(one: Trainer, step: int) -> None:
        if (
            kept
        ):  # the primary partition is sound; its gradients are not, but for the ones that are not finite
            one.model.load_state_dict(kept[0])
            for weight in one.model.parameters():
                if weight.grad is not None and not math.isnan(value):
                    weight.grad.nan_to_num_(0.0)

    return with_hooks(trainer, before_forward=before, after_backward=after)


def unwritten(seed: int, steps: int = 20) -> Trainer:
    """Missing copy: the same elements are never written, in every step."""
    source = torch.Generator().manual_seed(seed)
    return with_hooks(
        finetuning(seed, steps=steps, learning_rate=1e-3),
        before_forward=lambda one, step: poison(one.model, 0.02, math.nan, source),
    )


def outdated(seed: int, refresh: int = 0, **settings: Any) -> Trainer:
    """Stale secondary: passes use the first weights, whatever the optimizer does to the others."""
    trainer = language(seed, learning_rate=5e-3, **{"steps": 30, **settings})
    first = copy.deepcopy(trainer.model.state_dict())
    now: list[Any] = []

    def before(one: Trainer, step: int) -> None:
        now[:] = [copy.deepcopy(one.model.state_dict())]
        one.model.load_state_dict(first)

    return with_hooks(
        trainer, before_forward=before, after_backward=lambda one, step: one.model.load_state_dict(now[0])
    )


def stale_evaluation(seed: int) -> Trainer:
    """Stale secondary in evaluation alone: it uses the first weights, while training uses the right ones."""
    model, _ = pretrained(seed)
    other = Text(128, torch.Generator().manual_seed(seed + 7), sharp=4.0)
    batch = other.batch(32, 24)
    first = copy.deepcopy(model)
    return Trainer(
        model,
        lambda net, step: next_token(net, other.batch(16, 24)),
        steps=100,
        every=5,
        learning_rate=1e-2,
        evaluate=lambda net: float(next_token(first, batch).detach()),
        evaluate_every=25,
    )


def late_load(seed: int, steps: int = 16) -> Trainer:
    """Dirty after load: the first step is taken with the weights from before the load."""
    trainer = finetuning(seed, steps=steps, learning_rate=3e-4)
    torch.manual_seed(seed + 99)
    random, loaded = Language(128).state_dict(), copy.deepcopy(trainer.model.state_dict())
    with torch.no_grad():
        for name in random:
            random[name] = random[name] * 1.7  # the loaded model is better by as much as large ones are

    def before(one: Trainer, step: int) -> None:
        if step == 0:
            one.model.load_state_dict(random)

    def after(one: Trainer, step: int) -> None:
        if step == 0:
            one.model.load_state_dict(loaded)

    return with_hooks(trainer, before_forward=before, after_backward=after)


def zeros(seed: int, vocabulary: int, printed: str = "loss", **settings: Any) -> Trainer:
    """Offload with hpZ: what is gathered is all zero, so that every token is as likely as any, and nothing moves."""

    def before(one: Trainer, step: int) -> None:
        with torch.no_grad():
            for weight in one.model.parameters():
                weight.zero_()

    return with_hooks(
        language(seed, vocabulary=vocabulary, batch=2, length=8, **settings), before_forward=before
    )


def torn_bucket(seed: int, chance: float, first: int, value: float = math.nan) -> Trainer:
    """ZeRO-1/2 with overlap: a part of a gradient bucket is not what was reduced."""
    source = torch.Generator().manual_seed(seed)

    def after(one: Trainer, step: int) -> None:
        if step >= first and float(torch.rand(1, generator=source)) < chance:
            grads = [weight.grad for weight in one.model.parameters() if weight.grad is not None]
            grad = grads[int(torch.randint(len(grads), (1,), generator=source))]
            grad.view(-1)[: grad.numel() // 3] = value

    return with_hooks(finetuning(seed, steps=24, learning_rate=1e-3, clip=0.0), after_backward=after)


def frozen(trainer: Trainer, norm: float) -> Trainer:
    """As the releases log it whose clipping turns a NaN gradient into a norm of 1 or √2."""
    trainer.run()
    for row in trainer.rows:
        if not math.isfinite(row["grad_norm"]):
            row["grad_norm"] = norm
    return trainer


def masked(seed: int, first: int = 0) -> Trainer:
    """Every label is masked: the mean over no token."""
    text = Text(128, torch.Generator().manual_seed(seed))

    def loss(net: nn.Module, step: int) -> torch.Tensor:
        tokens = text.batch(4, 16)
        return next_token(net, tokens, torch.ones(4, 16, dtype=torch.bool) if step >= first else None)

    return Trainer(Language(128), loss, steps=12)


def large_values(seed: int, factor: float) -> Trainer:
    """Activations that do not fit into fp16, whatever the loss scale: the gradients overflow without end."""
    trainer = finetuning(seed, steps=60, scale=2.0**16, learning_rate=1e-3)

    def after(one: Trainer, step: int) -> None:
        for weight in one.model.parameters():
            if weight.grad is not None:
                weight.grad.mul_(factor)

    return with_hooks(trainer, after_backward=after)


def pile_up(seed: int) -> Trainer:
    """bf16 without ZeRO: gradients are never set to zero."""
    trainer = language(seed, steps=40, learning_rate=3e-2, clip=0.0, optimizer="sgd")
    held: dict[int, torch.Tensor] = {}

    def after(one: Trainer, step: int) -> None:
        for weight in one.model.parameters():
            if weight.grad is not None:
                held[id(weight)] = held.get(id(weight), torch.zeros_like(weight)) + weight.grad
                weight.grad.copy_(held[id(weight)])

    return with_hooks(trainer, after_backward=after)


def wrong_scale(seed: int) -> Trainer:
    """Quantised gradients with a wrong scale: updates are far too large from the first step on."""
    trainer = language(seed, steps=10, learning_rate=30.0, optimizer="sgd", clip=0.0, filters_nan=False)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.mul_(200.0)
    return trainer


def bad_batch(seed: int, step: int) -> Trainer:
    """One batch with a value that is not finite: the weights are NaN ever after."""
    trainer = classification(seed, steps=24, learning_rate=1e-2, clip=0.0)
    sound = trainer.loss
    trainer.loss = lambda net, now: sound(net, now) * (math.nan if now == step else 1.0)
    return trainer


def reinitialised(seed: int) -> Trainer:
    """transformers 4.36 with offload: some weights are drawn anew after the load, and wide."""
    trainer = classification(seed, classes=2, batch=64, noise=2.0, steps=60, learning_rate=1e-2).run()
    again = classification(seed, classes=2, batch=2, noise=2.0, steps=12, learning_rate=1e-5)
    again.model = trainer.model
    with torch.no_grad():
        again.model[2].weight.normal_(0, 2.0, generator=torch.Generator().manual_seed(seed))
    return again


def summed(seed: int) -> Trainer:
    """The logged loss is the sum over four micro-batches."""
    trainer = language(seed, steps=30, accumulation=4, batch=2, learning_rate=5e-3).run()
    for row in trainer.rows:
        row["loss"] = round(4 * row["loss"], 4)
    return trainer


CPU = {"device": "cpu"}
QWEN = known(with_zero(HPZ, offload_param=CPU, offload_optimizer=CPU), "0.16.2")
FP16 = {"fp16": {"enabled": True}, "zero_optimization": {"stage": 3}}
OVERLAP = ("bucket reused", "bucket freed", "bucket index", "several producers")

TUNED: dict[str, Faulty] = {
    "race, garbage is NaN": Faulty(
        lambda s: early_gather(s, math.nan, 0.4), ("race",), "race", known(HPZ, "0.13.4")
    ),
    "race, later": Faulty(
        lambda s: early_gather(s, math.nan, 0.5, first=8), ("race",), "race", known(HPZ, "0.13.2")
    ),
    "missing copy": Faulty(
        unwritten, ("missing copy",), "missing copy", known(HPZ, "0.13.3", numels=(1001, 4096))
    ),
    "stale": Faulty(outdated, ("stale secondary",), "stale secondary", known(HPZ, "0.12.5", vocabulary=128)),
    "load after partitioning": Faulty(
        late_load, ("dirty after load",), "dirty after load", known(HPZ, "0.16.9", facts=["loads weights"])
    ),
    "offload, stuck": Faulty(lambda s: zeros(s, 2048, steps=10), ("offload",), "offload", QWEN),
    "ZeRO-2, 0.14.0": Faulty(
        lambda s: torn_bucket(s, 0.3, 3), OVERLAP, "ZeRO-1/2 overlap", known(ZERO2, "0.14.0")
    ),
    "ZeRO-2, frozen": Faulty(
        lambda s: frozen(torn_bucket(s, 0.9, 1), math.sqrt(2)),
        OVERLAP,
        "ZeRO-1/2 overlap",
        known(ZERO2, "0.17.2"),
    ),
    "learning rate 0": Faulty(
        lambda s: finetuning(s, steps=12, schedule="zero"), ("learning rate 0",), "learning rate 0"
    ),
    "learning rate too high": Faulty(
        lambda s: language(s, steps=30, learning_rate=3.0, optimizer="sgd", clip=0.0),
        ("plain instability",),
        "instability",
        known(ZERO3, "0.19.8"),
    ),
    "labels masked": Faulty(masked, ("nothing to predict",), "nothing to predict", known(ZERO3, "0.19.8")),
    "fp16 overflow": Faulty(
        lambda s: large_values(s, 1e9), ("fp16 overflow",), "fp16 overflow", known(FP16, "0.19.8")
    ),
    "hang": Faulty(
        lambda s: finetuning(s, steps=12),
        ("stopped", "hang"),
        "stopped",
        known(HPZ, "0.19.8"),
        silence=1800.0,
        keep=9,
    ),
    "bf16 without ZeRO": Faulty(
        pile_up,
        ("bf16 without ZeRO",),
        "bf16 without ZeRO",
        known({"bf16": {"enabled": True}, "zero_optimization": {"stage": 0}}, "0.18.5"),
    ),
}
HELD_OUT: dict[str, Faulty] = {
    "race, garbage is large": Faulty(
        lambda s: early_gather(s, 1e30, 0.4), ("race",), "race", known(HPZ, "0.13.4")
    ),
    "race, once, two steps seen": Faulty(
        lambda s: early_gather(s, math.nan, 1.0, first=2), ("race",), "race", known(HPZ, "0.13.4"), keep=4
    ),
    "missing copy, no sizes": Faulty(
        lambda s: unwritten(s, 8), ("missing copy",), "missing copy", known(HPZ, "0.13.1")
    ),
    "stale, in evaluation": Faulty(
        stale_evaluation, ("stale secondary",), "stale secondary", known(HPZ, "0.13.1")
    ),
    "load after partitioning, short": Faulty(
        lambda s: late_load(s, 7), ("dirty after load",), "dirty after load", known(HPZ, "0.18.0")
    ),
    "offload, vocabulary given": Faulty(
        lambda s: zeros(s, 512, steps=8),
        ("offload",),
        "offload",
        {**QWEN, "release": None, "vocabulary": 512},
    ),
    "ZeRO-2, large garbage": Faulty(
        lambda s: torn_bucket(s, 0.3, 2, 1e25), OVERLAP, "ZeRO-1/2 overlap", known(ZERO2, "0.13.5")
    ),
    "ZeRO-1, from the first": Faulty(
        lambda s: torn_bucket(s, 1.0, 0),
        OVERLAP,
        "ZeRO-1/2 overlap",
        known(with_zero(ZERO2, stage=1), "0.16.4"),
    ),
    "learning rate 0, pretraining": Faulty(
        lambda s: language(s, steps=40, every=5, schedule="zero"),
        ("learning rate 0",),
        "learning rate 0",
        known(HPZ, "0.13.4"),
    ),
    "Adam, rate too high": Faulty(
        lambda s: finetuning(s, steps=30, learning_rate=1.0, clip=0.0),
        ("plain instability",),
        "instability",
        known(HPZ, "0.19.8"),
    ),
    "one bad batch": Faulty(
        lambda s: bad_batch(s, 7), ("plain instability",), "instability", known(ZERO3, "0.19.8")
    ),
    "labels masked, hpZ on": Faulty(
        masked, ("nothing to predict",), "nothing to predict", known(HPZ, "0.19.8")
    ),
    "fp16, precision not said": Faulty(
        lambda s: large_values(s, 1e10),
        ("fp16 overflow",),
        "fp16 overflow",
        known({"fp16": {"enabled": "auto"}, "zero_optimization": {"stage": 3}}, "0.19.8"),
    ),
    "no first step": Faulty(
        lambda s: finetuning(s, steps=1), ("stopped", "hang"), "stopped", known(HPZ, "0.13.2"), keep=0
    ),
    "quantised gradients": Faulty(
        wrong_scale,
        ("quantised gradients",),
        "quantised gradients",
        known(with_zero(HPZ, zero_quantized_gradients=True), "0.16.9"),
    ),
    "transformers and offload": Faulty(
        reinitialised,
        ("transformers: offload",),
        "transformers",
        known(with_zero(ZERO3, offload_param=CPU), "0.12.6"),
    ),
    "sum for mean": Faulty(
        summed,
        ("transformers: accumulation",),
        "transformers",
        known(ZERO3 | {"gradient_accumulation_steps": 4}, "0.16.9", vocabulary=128),
    ),
}
