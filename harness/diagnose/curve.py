"""Training curves from anywhere: our run directories, wandb exports, HF Trainer's state, any JSONL with step and loss.

Whatever the source, a curve is the same few arrays; what cannot be read is refused in one sentence.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.system.errors import HarnessError

Row = Mapping[str, Any]
Floats = NDArray[np.float64]

# Names that a column goes by, the preferred one first; wandb's charts put "run name - " before them.
NAMES: dict[str, tuple[str, ...]] = {
    "step": ("step", "_step", "global_step", "train/global_step", "trainer/global_step", "iteration"),
    "loss": ("loss", "train/loss", "train_loss", "training_loss", "train/train_loss", "train/lm_loss"),
    "grad_norm": (
        "grad_norm",
        "train/grad_norm",
        "gradient_norm",
        "train/gradient_norm",
        "train/global_grad_norm",
    ),
    "time": ("utc", "_timestamp", "timestamp", "_runtime", "relative time (process)"),
}
BOUNDS = ("__min", "__max")  # wandb's charts add them for smoothed lines
PAUSE = 10  # times the median time between steps, and
PAUSE_SECONDS = 2.0  # at least so long: more than any step takes, so training stopped and went on


@dataclass(frozen=True, eq=False)
class Curve:
    """One training, a value per recorded step (all arrays have shape [steps])."""

    step: NDArray[np.int64]
    loss: Floats
    """NaN where it was not finite."""
    grad_norm: Floats
    """Global; infinity where it was not finite, NaN where it was not recorded."""
    time: Floats
    """Seconds from any origin; NaN where not recorded."""
    restarts: tuple[int, ...] = ()
    """Indices of the first step after training stopped and went on: steps done again, or a pause."""
    notes: tuple[str, ...] = ()
    """What was odd in the source and how it was read."""
    has_loss: bool = True
    learning_rate: Floats = field(default_factory=lambda: np.empty(0))
    loss_scale: Floats = field(default_factory=lambda: np.empty(0))
    eval_step: Floats = field(default_factory=lambda: np.empty(0))
    eval_loss: Floats = field(default_factory=lambda: np.empty(0))
    eval_accuracy: Floats = field(default_factory=lambda: np.empty(0))
    columns: frozenset[str] = frozenset()
    errors: tuple[str, ...] = ()
    name: str = ""
    form: str = ""
    overflows: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "loss_scale"):
            if len(getattr(self, name)) != len(self.step):
                object.__setattr__(self, name, np.full(len(self.step), np.nan))

    def __len__(self) -> int:
        return len(self.step)


def read_curve(path: Path) -> Curve:
    """The curve in a file or folder. Raises HarnessError in one sentence for what holds none."""
    file = _file_of(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise HarnessError(f"{file}: cannot be read ({error.strerror}); give {ACCEPTED}") from error
    except UnicodeDecodeError as error:
        raise HarnessError(f"{file}: is not text; give {ACCEPTED}") from error
    notes: list[str] = []
    rows = _csv_rows(text, file) if file.suffix == ".csv" else _json_rows(text, file, notes)
    return curve_of(rows, str(file), notes)


ACCEPTED = (
    "a run directory, a wandb export (CSV, or history as JSONL), HF Trainer's trainer_state.json, "
    "or JSONL with step, loss and grad_norm"
)


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("steps.jsonl", "trainer_state.json"):
        if (path / name).exists():
            return path / name
    if saved := sorted(path.glob("checkpoint-*/trainer_state.json"), key=lambda file: file.stat().st_mtime):
        return saved[-1]
    if runs := sorted(path.glob("runs/*/run.json")):
        raise HarnessError(f"{path}: holds {len(runs)} runs; name one of them, such as {runs[0].parent}")
    raise HarnessError(f"{path}: holds no curve; give {ACCEPTED}")


def _csv_rows(text: str, file: Path) -> list[Row]:
    try:
        return list(csv.DictReader(text.splitlines(), strict=True))
    except csv.Error as error:
        raise HarnessError(f"{file}: not CSV ({error}); give {ACCEPTED}") from error


def _json_rows(text: str, file: Path, notes: list[str]) -> Sequence[Row]:
    try:
        content = json.loads(text)
    except ValueError:
        return list(_lines(text, file, notes))
    if isinstance(content, dict):
        content = content.get("log_history", [content])
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise HarnessError(f"{file}: is JSON, but no list of steps; give {ACCEPTED}")
    return content


def _lines(text: str, file: Path, notes: list[str]) -> Iterator[Row]:
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines) > 1:
                notes.append(f"line {number} is cut off and was left out")
                return
            raise HarnessError(f"{file}: line {number}: not JSON; give {ACCEPTED}") from error
        if not isinstance(row, dict):
            raise HarnessError(f"{file}: line {number}: is no JSON object; give {ACCEPTED}")
        yield row


def curve_of(rows: Sequence[Row], source: str, notes: Sequence[str] = ()) -> Curve:
    """A curve from rows of values; steps that were done again count once, as done last. Raises HarnessError."""
    columns = {what: _column(rows, what, source) for what in NAMES}
    for what in ("step", "loss"):
        if columns[what] is None:
            known = ", ".join(NAMES[what][:4])
            raise HarnessError(f"{source}: has no column for the {what} ({known}); give {ACCEPTED}")
    found: dict[int, tuple[float, float, float]] = {}
    again: set[int] = set()
    last = -1
    for row in rows:
        step, loss = _number(row, columns["step"]), _number(row, columns["loss"])
        if step is None or loss is None or not np.isfinite(step):
            continue  # wandb and HF Trainer keep evaluations between the steps
        if int(step) <= last:
            again.add(int(step))
            found = {key: value for key, value in found.items() if key < int(step)}
        grad, time = _number(row, columns["grad_norm"]), _number(row, columns["time"])
        broken_grad = grad is not None and not np.isfinite(grad)
        found[int(step)] = (
            loss if np.isfinite(loss) else np.nan,
            np.inf if broken_grad else np.nan if grad is None else grad,
            np.nan if time is None else time,
        )
        last = int(step)
    if not found:
        raise HarnessError(f"{source}: holds no step with a loss; give {ACCEPTED}")
    return _assemble(found, again, notes)


def _assemble(
    found: Mapping[int, tuple[float, float, float]], again: set[int], notes: Sequence[str]
) -> Curve:
    values = np.array(list(found.values()), dtype=np.float64).reshape(-1, 3)
    steps, time = np.array(list(found), dtype=np.int64), values[:, 2]
    redone = {int(np.searchsorted(steps, step)) for step in again}
    said = [f"{len(again)} times steps were done again; the last time counts"] if again else []
    return Curve(
        step=steps,
        loss=values[:, 0],
        grad_norm=values[:, 1],
        time=time,
        restarts=tuple(sorted((redone | _pauses(time)) - {0})),
        notes=(*notes, *said),
    )


def _pauses(time: Floats) -> set[int]:
    """Indices of steps that came long after the one before, or before it (another clock)."""
    gaps = np.diff(time)
    known = gaps[np.isfinite(gaps)]
    if len(known) < 3:
        return set()
    long = max(PAUSE * float(np.median(known)), PAUSE_SECONDS)
    return {int(index) + 1 for index in np.flatnonzero((gaps > long) | (gaps < 0))}


def _column(rows: Sequence[Row], what: str, source: str) -> str | None:
    """The column that holds `what`. Raises HarnessError where several runs have one each."""
    present = dict.fromkeys(key for row in rows for key in row if isinstance(key, str))
    by_name: dict[str, list[str]] = {}
    for key in present:
        if not key.lower().endswith(BOUNDS):
            by_name.setdefault(key.rsplit(" - ", 1)[-1].strip().lower(), []).append(key)
    for name in NAMES[what]:
        if keys := by_name.get(name):
            if len(keys) > 1:
                raise HarnessError(
                    f"{source}: holds the curves of several runs ({', '.join(keys[:3])}); export one run alone"
                )
            return keys[0]
    return None


def _number(row: Row, column: str | None) -> float | None:
    """The value as a number (NaN: not finite), or None where it is absent or no number."""
    value = row.get(column) if column else None
    if value is None:
        # Our own files are strict JSON: null, with the value named beside.
        return float("nan") if column and f"{column}=" in str(row.get("nonfinite") or "") else None
    if column == "utc":
        return _seconds(str(value))
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _seconds(utc: str) -> float | None:
    try:
        return datetime.fromisoformat(utc).timestamp()
    except ValueError:
        return None
