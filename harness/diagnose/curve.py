"""A training's curve: a value per logged step, made from rows of named values, whatever these were read from.

Files, folders and logs become rows in `harness.diagnose.read`; here names are recognised and values keep their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.diagnose.cells import Column, Row, number
from harness.diagnose.names import column_of, is_evaluation, is_summary, step_column
from harness.system.errors import HarnessError
from harness.words import counted

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PAUSE = 10  # times the median time between steps, and
PAUSE_SECONDS = 2.0  # at least so long: more than any step takes, so training stopped and went on

EMPTY_LOG = "no step was logged"
EMPTY_FILE = "it is empty"


def _none() -> Floats:
    return np.empty(0)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a log says of the run that wrote it; None where it does not."""

    release: str | None = None
    torch: str | None = None
    transformers: str | None = None
    world_size: int | None = None
    dtype: str | None = None
    """`bf16`, `fp16` or `fp32`."""
    config: dict[str, Any] | None = None
    """The DeepSpeed configuration, as DeepSpeed prints it when it starts."""
    names_config: str | None = None
    """Else the file that a command line or recipe in the log names."""
    scaled: bool | None = None
    """Whether the loss is scaled, as in fp16; not where every scale that is logged is 1."""
    framework: str = ""
    """The framework that wrote it, where it is not DeepSpeed's own kin and nothing speaks of DeepSpeed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """One training, a value per recorded step (all arrays have shape [steps]); without a step where none was logged."""

    step: NDArray[np.int64]
    loss: Floats
    """NaN or infinite where it was not finite; NaN throughout without `has_loss`."""
    grad_norm: Floats
    """Global; infinity where it was not finite, NaN where it was not recorded."""
    time: Floats = field(default_factory=_none)
    """Seconds from any origin; NaN where not recorded."""
    restarts: tuple[int, ...] = ()
    """Indices of the first step after training stopped and went on: steps done again, or a pause."""
    notes: tuple[str, ...] = ()
    """What was odd in the source and how it was read."""
    has_loss: bool = True
    """Whether the source has a training loss at all (it may hold gradient norms or evaluations alone)."""
    learning_rate: Floats = field(default_factory=_none)
    """NaN where not recorded."""
    loss_scale: Floats = field(default_factory=_none)
    """Of fp16; NaN where not recorded."""
    eval_step: Floats = field(default_factory=_none)
    """Shape [evaluations]; NaN where the source does not say the step."""
    eval_loss: Floats = field(default_factory=_none)
    """Shape [evaluations]; NaN where it was not finite or not recorded."""
    eval_accuracy: Floats = field(default_factory=_none)
    """Shape [evaluations]; NaN where not recorded."""
    columns: frozenset[str] = frozenset()
    """Every name in the source, as it stands there."""
    errors: tuple[str, ...] = ()
    """Lines of a log that say what went wrong."""
    overflows: int = 0
    """Times a log says that a step was skipped for an overflow."""
    steps_counted: bool = False
    """The source has no step numbers, so they are 1, 2, 3, …"""
    name: str = ""
    """Which of several runs of one source."""
    form: str = ""
    """What the source was read as."""
    told: Told = Told()

    def __post_init__(self) -> None:
        for name in ("time", "learning_rate", "loss_scale"):
            if len(getattr(self, name)) != len(self.step):
                object.__setattr__(self, name, np.full(len(self.step), np.nan))

    def __len__(self) -> int:
        return len(self.step)

    @property
    def of_empty_file(self) -> bool:
        return EMPTY_FILE in self.notes

    @property
    def bad_loss(self) -> Bools:
        """Where a loss was recorded and is not finite."""
        return ~np.isfinite(self.loss) & self.has_loss

    @property
    def bad_gradient(self) -> Bools:
        """Where a gradient norm was recorded and is not finite."""
        return np.isinf(self.grad_norm)


def empty_curve(notes: Sequence[str] = (EMPTY_LOG,), **known: Any) -> Curve:
    """A curve without a step."""
    nothing = np.empty(0)
    return Curve(step=np.empty(0, np.int64), loss=nothing, grad_norm=nothing, notes=tuple(notes), **known)


def curve_of(rows: Sequence[Row], source: str, notes: Sequence[str] = (), **known: Any) -> Curve:
    """A curve from rows of values; steps that were done again count once, as done last. Raises HarnessError.

    `known` are other fields of the curve.
    """
    columns = dict.fromkeys(key for row in rows for key in row if isinstance(key, str))
    training = [row for row in rows if not is_evaluation(row) and not is_summary(row)]
    loss, said = column_of("loss", columns, source)
    grad, _ = column_of("grad_norm", columns, source)
    known |= {"columns": frozenset(columns), **_evaluations(rows, columns, source)}
    rate, _ = column_of("learning_rate", columns, source)
    if loss is None and grad is None:
        if len(known["eval_loss"]):
            return empty_curve((*notes, "only evaluations, no training loss"), has_loss=False, **known)
        if rate is not None:
            return _steps_alone(training, rate, columns, notes, known)
        raise HarnessError(f"{source}: has no column for a loss, a gradient norm or an evaluation's loss")
    keys = {what: column_of(what, columns, source)[0] for what in ("time", "loss_scale")}
    keys |= {"loss": loss, "grad_norm": grad, "learning_rate": rate}
    read = {what: Column(training, key, explicit=what == "loss") for what, key in keys.items()}
    has_loss = any(value is not None for value in read["loss"].values)
    main = "loss" if has_loss else "grad_norm"
    logged = [row for row, value in zip(training, read[main].values, strict=True) if value is not None]
    step = step_column(columns, logged)
    values, again = _by_step(training, step, main, read)
    said = [*said, *(one.note for one in read.values() if one.note)]
    if step is None and values:
        said.append("the source has no steps; counted 1, 2, 3, …")
    if not has_loss:
        said.append("no training loss here, gradient norms alone" if values else EMPTY_LOG)
    known |= {"steps_counted": step is None and bool(values), "has_loss": has_loss}
    if not values:
        return empty_curve((*notes, *said), **known)
    return _assemble(values, again, (*notes, *said), known)


def _steps_alone(
    rows: Sequence[Row],
    rate: str,
    columns: Mapping[str, None],
    notes: Sequence[str],
    known: Mapping[str, Any],
) -> Curve:
    """Steps and learning rates without a loss or a gradient norm, as DeepSpeed's own lines are."""
    step = step_column(columns, rows)
    found = {
        int(at): number(row.get(rate)) for row in rows if step and (at := number(row.get(step))) is not None
    }
    steps = sorted(found)
    nothing = np.full(len(steps), np.nan)
    return Curve(
        step=np.array(steps, dtype=np.int64),
        loss=nothing,
        grad_norm=nothing.copy(),
        learning_rate=np.array(
            [np.nan if found[at] is None else found[at] for at in steps], dtype=np.float64
        ),
        notes=(*notes, "neither a loss nor a gradient norm was logged; have the script print its loss"),
        **(dict(known) | {"has_loss": False}),
    )


Values = dict[int, dict[str, float | None]]


def _by_step(
    rows: Sequence[Row], step: str | None, main: str, columns: Mapping[str, Column]
) -> tuple[Values, set[int]]:
    """Values by step in ascending order, and the steps that were done again."""
    found: Values = {}
    again: set[int] = set()
    last, counted = -1, 0
    for index, row in enumerate(rows):
        at = number(row.get(step)) if step else None
        values = {name: column.values[index] for name, column in columns.items()}
        if values[main] is None:
            _complete(found.get(int(at)) if at is not None and np.isfinite(at) else None, values)
            continue  # other values are kept between the steps, some of them of a step's own
        counted += 1
        if step is None:
            at = counted
        if at is None or not np.isfinite(at):
            continue
        if int(at) <= last:
            again.add(int(at))
            found = {key: value for key, value in found.items() if key < int(at)}
        found[int(at)] = values
        last = int(at)
    return found, again


def _complete(step: dict[str, float | None] | None, values: Mapping[str, float | None]) -> None:
    """Adds what another row of the same step holds."""
    if step is not None:
        step.update({name: value for name, value in values.items() if step[name] is None})


def _assemble(found: Values, again: set[int], notes: Sequence[str], known: Mapping[str, Any]) -> Curve:
    steps = np.array(list(found), dtype=np.int64)
    arrays: dict[str, Any] = {
        name: np.array(
            [np.nan if row[name] is None else row[name] for row in found.values()], dtype=np.float64
        )
        for name in ("loss", "grad_norm", "time", "learning_rate", "loss_scale")
    }
    recorded = np.array([row["grad_norm"] is not None for row in found.values()], dtype=bool)
    arrays["grad_norm"][recorded & ~np.isfinite(arrays["grad_norm"])] = np.inf
    redone = {int(np.searchsorted(steps, step)) for step in again}
    said = (
        [
            f"{counted(len(again), 'step')} {'was' if len(again) == 1 else 'were'} done again; the last time counts"
        ]
        if again
        else []
    )
    return Curve(
        step=steps,
        restarts=tuple(sorted((redone | _pauses(arrays["time"])) - {0})),
        notes=(*notes, *said),
        **(arrays | dict(known)),
    )


def _evaluations(rows: Sequence[Row], columns: Mapping[str, None], source: str) -> dict[str, Floats]:
    loss, accuracy = (column_of(what, columns, source)[0] for what in ("eval_loss", "eval_accuracy"))
    held = [row for row in rows if any(number(row.get(key)) is not None for key in (loss, accuracy) if key)]
    step = step_column(columns, held)
    keys = {"eval_step": step, "eval_loss": loss, "eval_accuracy": accuracy}
    cells = {name: [number(row.get(key)) if key else None for row in held] for name, key in keys.items()}
    return {
        name: np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        for name, values in cells.items()
    }


def _pauses(time: Floats) -> set[int]:
    """Indices of steps that came long after the one before, or before it (another clock)."""
    gaps = np.diff(time)
    known = gaps[np.isfinite(gaps)]
    if len(known) < 3:
        return set()
    long = max(PAUSE * float(np.median(known)), PAUSE_SECONDS)
    return {int(index) + 1 for index in np.flatnonzero((gaps > long) | (gaps < 0))}
