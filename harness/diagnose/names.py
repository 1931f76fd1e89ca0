"""The names that a curve's quantities go by in the logs of the common trainers, the preferred one first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.system.errors import HarnessError

NAMES: dict[str, tuple[str, ...]] = {
    "step": (
        *(
            "step",
            "global_step",
            "train/global_step",
            "trainer/global_step",
            "global_step/max_steps",
            "steps",
        ),
        *("current_steps", "iteration", "iter", "num_updates", "train_step", "training step", "train/step"),
        *("training/global_step", "update", "it", "_step"),
    ),
    "loss": (
        *(
            "loss",
            "train/loss",
            "train_loss",
            "training_loss",
            "training loss",
            "train loss",
            "train/train_loss",
        ),
        *("train/lm_loss", "lm loss", "lm_loss", "lm-loss-training/lm loss", "train/samples/train_loss"),
        *(
            "train_loss_step",
            "train/loss_step",
            "loss/train",
            "total_loss",
            "training/loss",
            "ce_loss",
            "nll_loss",
        ),
    ),
    "grad_norm": (
        *("grad_norm", "train/grad_norm", "gradient_norm", "train/gradient_norm", "train/global_grad_norm"),
        *(
            "global_grad_norm",
            "grad norm",
            "gradient norm",
            "gnorm",
            "gradnorm",
            "grad-norm",
            "training/grad_norm",
        ),
    ),
    "learning_rate": (
        *("learning_rate", "train/learning_rate", "lr", "train/lr", "learning rate", "train/samples/lr"),
        *("training/learning_rate", "learning-rate/learning-rate"),
    ),
    "loss_scale": ("loss_scale", "loss scale", "train/loss_scale", "train/samples/loss_scale"),
    "time": (
        "utc",
        "_timestamp",
        "timestamp",
        "wall time",
        "wall_time",
        "_runtime",
        "relative time (process)",
    ),
    "eval_loss": (
        *(
            "eval_loss",
            "eval/loss",
            "val_loss",
            "val/loss",
            "valid_loss",
            "validation_loss",
            "validation loss",
        ),
        *("val loss", "eval loss", "test_loss", "test/loss", "valid/loss", "validation/loss"),
    ),
    "eval_accuracy": ("eval_accuracy", "eval/accuracy", "val_accuracy", "val_acc", "eval_acc", "accuracy"),
}
LIKE = {
    # What an unknown name must look like to be taken for the quantity, where no known one is there.
    "loss": re.compile(
        r"(^|[/_ .-])loss(es)?([/_ .-]?(mean|avg|step|train))?$|^loss[/_ ](?!scale|mask|fn|func)"
    ),
    "grad_norm": re.compile(r"grad(ient)?s?[/_ .-]?(global)?[/_ .-]?norm|global[/_ .-]norm"),
    "learning_rate": re.compile(r"(^|[/_ .-])(lr|learning[/_ .-]rate)$"),
    "eval_loss": re.compile(r"^(eval|val|valid|validation|test)\w*[/_ .-].*loss$"),
}
HELD_OUT = re.compile(r"^(eval|evaluation|val|valid|validation|test|dev)(?=[/_ .-])")
PART = re.compile(
    r"(^|[/_ .-])(aux|z|kl|balanc\w*|router|moe|entropy|vf|value|critic|reg\w*|l2|commit\w*)[/_ .-]"
)
BOUNDS = ("__min", "__max")  # wandb's charts add them for smoothed lines
SUMMARY = ("train_runtime", "train_samples_per_second", "total_flos")


def plain(key: str) -> str:
    """A column's name as it is looked up: without case, and without the `run - ` that wandb's charts put before it."""
    return key.rsplit(" - ", 1)[-1].strip().lower()


def column_of(what: str, columns: Iterable[str], source: str) -> tuple[str | None, list[str]]:
    """The column that holds a quantity, and what is to be said of it. HarnessError where several runs have one each."""
    by_name: dict[str, list[str]] = {}
    for key in columns:
        if not key.lower().endswith(BOUNDS):
            by_name.setdefault(plain(key), []).append(key)
    known = next((name for name in NAMES[what] if name in by_name), None)
    if known is not None:
        keys = by_name[known]
        if len(keys) > 1:
            raise HarnessError(
                f"{source}: holds the curves of several runs ({', '.join(keys[:3])}); name one with --run"
            )
        return keys[0], []
    like = [name for name in by_name if what in LIKE and LIKE[what].search(name) and not PART.search(name)]
    if what != "eval_loss":
        like = [name for name in like if not HELD_OUT.match(name)]
    if not like:
        return None, []
    key = by_name[like[0]][0]
    return key, [f"{key!r} is taken for the {what.replace('_', ' ')}"]


def step_column(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column of step numbers that most of `rows` have; of equals, the preferred one."""
    by_name = {plain(key): key for key in reversed(list(columns))}
    present = [by_name[name] for name in NAMES["step"] if name in by_name]
    filled = {key: sum(row.get(key) not in (None, "") for row in rows) for key in present}
    best = max(filled.values(), default=0)
    return next((key for key in present if filled[key] == best > 0), None)


def is_evaluation(row: Mapping[str, Any]) -> bool:
    """A row that holds an evaluation and no training loss."""
    keys = [plain(key) for key, value in row.items() if isinstance(key, str) and value not in (None, "")]
    held_out = any(HELD_OUT.match(key) for key in keys)
    return held_out and not any(key in NAMES["loss"] or key in NAMES["grad_norm"] for key in keys)


def is_summary(row: Mapping[str, Any]) -> bool:
    """The row that a trainer writes when it has ended, with averages."""
    return any(key in row for key in SUMMARY[:2])


def is_training(row: Mapping[str, Any]) -> bool:
    """A row that holds a loss of training."""
    return not is_summary(row) and any(isinstance(key, str) and plain(key) in NAMES["loss"] for key in row)


def is_loss_name(key: object) -> bool:
    """Whether a name is one of a training's whole loss."""
    if not isinstance(key, str) or key.lower().endswith(BOUNDS):
        return False
    name = plain(key)
    like = LIKE["loss"].search(name) and not PART.search(name) and not HELD_OUT.match(name)
    return name in NAMES["loss"] or bool(like)


def is_curve_name(key: str) -> bool:
    """Whether a name is one of a curve's: a loss, a gradient norm, a learning rate or an evaluation."""
    name = plain(key)
    wanted = ("loss", "grad_norm", "learning_rate", "eval_loss")
    return any(name in NAMES[what] or bool(LIKE[what].search(name)) for what in wanted)
