"""Curves from every source are the same arrays; what is no curve is refused in one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.diagnose.curve import Curve, curve_of
from harness.diagnose.read import read_curve
from harness.system.errors import HarnessError

LOSSES = [5.5, 5.1, math.nan, 4.4]


def saved(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def ours(step: int, loss: float, utc: str = "2026-01-01T00:00:00.000Z") -> dict[str, Any]:
    odd = None if math.isfinite(loss) else f"loss={loss} grad_norm=inf"
    value = loss if odd is None else None
    return {
        "schema": 1,
        "step": step,
        "loss": value,
        "grad_norm": None if odd else 1.0,
        "nonfinite": odd,
        "utc": utc,
    }


HF_ROWS = [
    {"step": step, "loss": loss, "grad_norm": 1.0, "learning_rate": 1e-5} for step, loss in enumerate(LOSSES)
]
HF = {
    "log_history": [
        *HF_ROWS,
        {"step": 3, "train_loss": 5.0, "train_runtime": 9.0},
        {"step": 3, "eval_loss": 4.9},
    ]
}
SOURCES = {
    "steps.jsonl": lines(*(ours(step, loss) for step, loss in enumerate(LOSSES))),
    "history.jsonl": lines(
        *({"_step": step, "train/loss": loss, "_runtime": step * 2.0} for step, loss in enumerate(LOSSES)),
        {"_step": 4, "eval/loss": 4.2},
    ),
    "wandb_strings.jsonl": lines(*({"_step": s, "train/loss": str(loss)} for s, loss in enumerate(LOSSES))),
    "export.csv": "Step,train/loss,train/grad_norm\n0,5.5,1\n1,5.1,1\n2,NaN,Infinity\n3,4.4,1\n4,,\n",
    "chart.csv": '"Step","my run - train/loss","my run - train/loss__MIN","my run - train/loss__MAX"\n'
    + "".join(f'"{step}","{loss}","0","9"\n' for step, loss in enumerate(LOSSES)),
    "trainer_state.json": json.dumps(HF),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_losses(tmp_path: Path, name: str) -> None:
    curve = read_curve(saved(tmp_path, name, SOURCES[name]))
    assert list(curve.step) == [0, 1, 2, 3]
    np.testing.assert_array_equal(curve.loss, LOSSES)


def test_a_folder_is_read_by_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3").mkdir()
    saved(tmp_path / "checkpoint-3", "trainer_state.json", SOURCES["trainer_state.json"])
    assert len(read_curve(tmp_path)) == 4


def test_gradient_norms_that_are_absent_and_that_are_not_finite_differ() -> None:
    rows = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 1.0, "grad_norm": math.nan}]
    norms = curve_of(rows, "here").grad_norm
    assert math.isnan(norms[0]) and norms[1] == math.inf


def test_a_cut_off_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    curve = read_curve(saved(tmp_path, "a.jsonl", SOURCES["steps.jsonl"] + '{"schema": 1, "st'))
    assert len(curve) == 4
    assert curve.notes == ("line 5 is cut off and was left out",)


def test_steps_done_again_count_once_and_mark_a_restart() -> None:
    rows = [{"step": step, "loss": loss} for step, loss in [(0, 5), (1, 4), (2, 3), (1, 4.5), (2, 3.5)]]
    curve = curve_of(rows, "here")
    assert list(curve.loss) == [5, 4.5, 3.5]
    assert curve.restarts == (1,)
    assert curve.notes == ("1 step was done again; the last time counts",)


@pytest.mark.parametrize("jump", [60.0, -60.0])
def test_a_pause_and_a_clock_that_jumps_back_mark_a_restart(jump: float) -> None:
    times = [0.0, 1.0, 2.0, 3.0, 3.0 + jump, 4.0 + jump]
    rows = [{"step": step, "loss": 1.0, "_timestamp": time} for step, time in enumerate(times)]
    assert curve_of(rows, "here").restarts == (4,)


@given(st.lists(st.tuples(st.integers(0, 30), st.floats()), min_size=1, max_size=40))
def test_steps_are_always_ascending(values: list[tuple[int, float]]) -> None:
    curve: Curve = curve_of([{"step": step, "loss": loss} for step, loss in values], "here")
    assert (np.diff(curve.step) > 0).all()
    assert len(curve) == len(curve.grad_norm) == len(curve.time)


REFUSED = {
    "foreign.jsonl": (
        lines({"a": 1}, {"a": 2}),
        "has no column for a loss, a gradient norm or an evaluation",
    ),
    "text.md": ("Dear reader,\nhello\n", "holds nothing that is known as a curve"),
    "configuration.json": ('{"train_batch_size": 8}', "is JSON, but no list of steps"),
    "two.csv": (
        "Step,a - loss,b - loss\n1,2,3\n",
        "holds the curves of several runs .a, b.; name one with --run",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_curve_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    text, sentence = REFUSED[name]
    with pytest.raises(HarnessError, match=sentence) as refused:
        read_curve(saved(tmp_path, name, text))
    assert name in str(refused.value) and "\n" not in str(refused.value)


def test_binary_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(HarnessError, match="is not text"):
        read_curve(tmp_path / "a.png")
    with pytest.raises(HarnessError, match="cannot be read"):
        read_curve(tmp_path / "none.csv")


def test_folders_without_a_single_curve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="holds no curve"):
        read_curve(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        saved(tmp_path / "runs" / name, "run.json", "{}")
    with pytest.raises(HarnessError, match=r"holds 2 runs; name one of them, such as .*runs/a"):
        read_curve(tmp_path)
