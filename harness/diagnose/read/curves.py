"""One reader for every form that a curve comes in, from a file, a folder or standard input.

Each form has a small adapter that makes rows of it; the first that recognises a source is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.diagnose.curve import EMPTY_FILE, Curve, Told, curve_of, empty_curve
from harness.diagnose.read.console import from_console
from harness.diagnose.read.events import folders_of_events, from_events, is_events
from harness.diagnose.read.golden import from_golden
from harness.diagnose.read.log import errors_in, is_log, overflows_in, told_by
from harness.diagnose.read.rows import Rows
from harness.diagnose.read.runs import runs_in
from harness.diagnose.read.source import STANDARD_INPUT, as_text, read_bytes
from harness.diagnose.read.tables import from_csv, from_json, from_jsonl, from_numbers, from_pasted_table
from harness.diagnose.read.wandb_store import from_stores, is_store
from harness.system.errors import HarnessError, nearest

ACCEPTED = (
    "a run directory, a log as printed, trainer_state.json, CSV, JSON or JSONL with a loss or a gradient norm, "
    "TensorBoard events, a wandb store, or golden values of torchtitan or Megatron-LM"
)
HINT = f"give {ACCEPTED}"
ADAPTERS: tuple[Callable[[str], Rows | None], ...] = (
    from_golden,
    from_json,
    from_jsonl,
    from_csv,
    from_numbers,
    from_console,
    from_pasted_table,
)
IN_A_FOLDER = ("steps.jsonl", "trainer_state.json", "logging.jsonl", "trainer_log.jsonl")
NOT_FINITE = re.compile(
    r"(?<![\w/ ])[\"' ]*([A-Za-z][\w/.-]{1,40})[\"']?\s?[:=]\s?[-+]?(?:nan|inf)\b", re.IGNORECASE
)
LOGS = ("*.log", "*.out", "*.txt", "*.err")


def read_curve(path: Path, several: str = "name one with --run") -> Curve:
    """The one curve in a file, a folder or standard input (`-`). Raises HarnessError for none, and for several with the
    way out."""
    curves = read_curves(path)
    if len(curves) > 1:
        names = ", ".join(curve.name for curve in curves[:4])
        raise HarnessError(f"{path}: holds the curves of several runs ({names}); {several}")
    return curves[0]


def read_curves(path: Path) -> list[Curve]:
    """The curve of every run in a file, a folder or standard input (`-`). Raises HarnessError for what holds none."""
    if path.is_dir():
        return _of_folder(path)
    return curves_of_bytes(read_bytes(path, HINT), "standard input" if path == STANDARD_INPUT else str(path))


def read_named(path: Path, run: str, option: str) -> Curve:
    """The curve of the run named `run` in a source of several. Raises HarnessError by the name of the `option`."""
    curves = read_curves(path)
    if found := [curve for curve in curves if curve.name == run]:
        return found[0]
    names = [curve.name for curve in curves if curve.name]
    what = nearest(run, names) if names else f"it holds one, without a name; leave out {option}"
    raise HarnessError(f"{option}: {path} holds no run {run!r}; {what}")


def curves_of_bytes(content: bytes, source: str) -> list[Curve]:
    """The curve of every run in a file's content. Raises HarnessError."""
    if is_store(content):
        return _of_stores([content], source)
    if is_events(content):
        return _curves(from_events([content]), source)
    return curves_in(as_text(content, source, HINT), source)


def curves_in(text: str, source: str) -> list[Curve]:
    """The curve of every run in a text. Raises HarnessError for a text that is neither a curve nor a log."""
    known: dict[str, Any] = {}
    if not text.strip():
        return [empty_curve((EMPTY_FILE,), form="empty file")]
    if (keys := _keys_of_json(text)) is not None and not (from_golden(text) or from_json(text)):
        what = (
            "is a DeepSpeed configuration; give it as --config"
            if "zero_optimization" in keys
            else "is JSON, but no list of steps"
        )
        raise HarnessError(f"{source}: {what}; as a curve {HINT}")
    for adapter in ADAPTERS:
        rows = adapter(text)
        if rows is None:
            continue
        if adapter is from_console:
            known = _of_log(text)
            rows = replace(rows, notes=(*rows.notes, *_not_finite_beside(text)))
        if rows.rows or rows.form == "Hugging Face trainer state":
            return _curves(rows, source, known)
    if is_log(text):
        return [empty_curve(form="a log without a loss", **_of_log(text))]
    raise HarnessError(f"{source}: holds nothing that is known as a curve; {HINT}")


def _curves(rows: Rows, source: str, known: dict[str, Any] | None = None) -> list[Curve]:
    ours = any(
        "schema" in row and "step" in row for row in rows.rows[:1]
    )  # a run of ours goes on, it begins no other
    runs = [rows] if ours else runs_in(rows)
    known = {"form": rows.form, **(known or {})}
    if not any(run.rows for run in runs):
        return [empty_curve(**known)]
    curves = [curve_of(run.rows, source, run.notes, **known, name=run.name) for run in runs]
    if rows.unread and not any(len(one) and one.has_loss for one in curves):
        raise HarnessError(f"{source}: {rows.unread}; write losses as numbers, such as 2.5")
    return curves


def _of_log(text: str) -> dict[str, Any]:
    told = told_by(text)
    return {"told": told, "errors": errors_in(text), "overflows": overflows_in(text)}


def _not_finite_beside(text: str) -> list[str]:
    """What a log says to be not finite and no curve holds, as a critic's loss; nothing where there is no such thing."""
    names = [name for name in dict.fromkeys(NOT_FINITE.findall(text)) if from_console(f"{name}: nan") is None]
    some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    return [f"not finite, but neither the loss nor the gradient norm that is judged: {some}"] if names else []


def _keys_of_json(text: str) -> list[str] | None:
    """The keys of a JSON value (none of what is no object); None where the text is no JSON."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return list(content) if isinstance(content, dict) else []


def _of_stores(contents: Sequence[bytes], source: str) -> list[Curve]:
    rows, printed = from_stores(contents)
    return _curves(rows, source, _of_log(printed) if printed else {"told": Told()})


# --- folders -------------------------------------------------------------------------------------------------------


def _of_folder(folder: Path) -> list[Curve]:
    if file := _file_of(folder):
        return read_curves(file)
    for kind in (_wandb_stores, _events, _csv_monitor):
        if curves := kind(folder):
            return curves
    logs = sorted(
        (file for pattern in LOGS for file in folder.glob(pattern)), key=lambda file: file.stat().st_mtime
    )
    if logs:
        return [
            replace(curve, notes=(f"read from {logs[-1].name}", *curve.notes))
            for curve in read_curves(logs[-1])
        ]
    raise HarnessError(f"{folder}: holds no curve; {HINT}")


def _file_of(folder: Path) -> Path | None:
    for name in IN_A_FOLDER:
        if (folder / name).exists():
            return folder / name
    if saved := sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda file: file.stat().st_mtime):
        return saved[-1]
    if runs := sorted(folder.glob("runs/*/run.json")):
        raise HarnessError(f"{folder}: holds {len(runs)} runs; name one of them, such as {runs[0].parent}")
    return None


def _wandb_stores(folder: Path) -> list[Curve]:
    """Stores by the run that they belong to: an interrupted run has several."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("run-*.wandb")):
        found.setdefault(file.stem, []).append(file)
    curves: list[Curve] = []
    for run, files in found.items():
        named = _of_stores([read_bytes(file, HINT) for file in files], str(files[0]))
        curves += [replace(one, name=run) if len(found) > 1 else one for one in named]
    return curves


def _events(folder: Path) -> list[Curve]:
    curves: list[Curve] = []
    for below, files in folders_of_events(folder).items():
        name = "" if below == folder else str(below.relative_to(folder))
        rows = from_events([read_bytes(file, HINT) for file in files], name)
        if rows.rows:  # a summary writer leaves files without a scalar, of hyperparameters
            try:
                curves += _curves(rows, str(below))
            except HarnessError:
                continue
    return curves


def _csv_monitor(folder: Path) -> list[Curve]:
    """DeepSpeed's csv_monitor writes a file a quantity, with steps."""
    by_step: dict[str, dict[str, str]] = {}
    for file in sorted(folder.rglob("*.csv")):
        table = from_csv(as_text(read_bytes(file, HINT), str(file), HINT))
        for row in table.rows if table else ():
            if step := row.get("step"):
                by_step.setdefault(step, {}).update(row)
    return (
        _curves(Rows(form="DeepSpeed's csv_monitor", rows=list(by_step.values())), str(folder))
        if by_step
        else []
    )
