"""Every form in which people keep or post a curve is read, and read back as it was written."""

from __future__ import annotations

import gzip
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnose.curve import Curve
from harness.diagnose.read import read_curve, read_curves
from harness.diagnose.read.curves import curves_in, curves_of_bytes
from harness.system.errors import HarnessError

Row = tuple[int, float, float]
"""Step, loss, gradient norm."""


def read(text: str) -> Curve:
    (curve,) = curves_in(text, "here")
    return curve


# --- reading back what was written ---------------------------------------------------------------------------------


def hugging_face_log(rows: list[Row]) -> str:
    return "".join(
        f"{{'loss': {loss!r}, 'grad_norm': {norm!r}, 'learning_rate': 1e-05, 'epoch': 0.0}}\n"
        f"  1%|▏         | {step}/400000 [00:0{step % 9}<1:10:00,  2.0s/it]\n"
        for step, loss, norm in rows
    )


def newer_hugging_face_log(rows: list[Row]) -> str:
    return "".join(
        f"{{'loss': '{loss}', 'grad_norm': '{norm}', 'step': '{step}'}}\n" for step, loss, norm in rows
    )


def pipes(rows: list[Row]) -> str:
    return "".join(
        f"Step: {s} | loss: {loss} | lr: 1e-05 | grad_norm: {norm} | epoch: 0\n" for s, loss, norm in rows
    )


def megatron(rows: list[Row]) -> str:
    return "".join(
        f" iteration {s:8d}/  500000 | consumed samples: 512 | elapsed time per iteration (ms): 212.3 | learning rate: "
        f"1.0E-05 | global batch size: 8 | lm loss: {loss} | loss scale: 1.0 | grad norm: {norm} | number of skipped "
        "iterations:   0 | number of nan iterations:   0 |\n"
        for s, loss, norm in rows
    )


def nano(rows: list[Row]) -> str:
    return "".join(
        f"iter {s}: loss {loss}, grad norm {norm}, time 12.3ms, mfu 3.4%\n" for s, loss, norm in rows
    )


def fairseq(rows: list[Row]) -> str:
    head = "2026-01-05 10:00:00 | INFO | train_inner | epoch 001:"
    return "".join(f"{head} {s} / 400000 loss={a}, ppl=9, gnorm={b}, num_updates={s}\n" for s, a, b in rows)


def progress_bars(rows: list[Row]) -> str:
    return "".join(
        f"Training:  3%|▎  | {s}/400000 [00:10<05:00, 1.1it/s, loss={loss}, grad_norm={norm}]\r"
        for s, loss, norm in rows
    )


def jsonl(rows: list[Row]) -> str:
    return "".join(json.dumps({"step": s, "loss": loss, "grad_norm": norm}) + "\n" for s, loss, norm in rows)


def swift(rows: list[Row]) -> str:
    key = "global_step/max_steps"
    return "".join(json.dumps({"loss": a, "grad_norm": b, key: f"{s}/400000"}) + "\n" for s, a, b in rows)


def llama_factory(rows: list[Row]) -> str:
    return "".join(
        json.dumps({"current_steps": s, "total_steps": 400000, "loss": a, "grad_norm": b, "lr": 1e-5}) + "\n"
        for s, a, b in rows
    )


def trainer_state(rows: list[Row]) -> str:
    history = [{"step": s, "loss": loss, "grad_norm": norm, "epoch": 0.1} for s, loss, norm in rows]
    return json.dumps({"best_metric": None, "global_step": 9, "log_history": history}, indent=1)


def cut_trainer_state(rows: list[Row]) -> str:
    return trainer_state(rows).partition('"log_history": [')[2].rpartition("]")[0] + ', { "step": '


def columns(rows: list[Row]) -> str:
    return json.dumps(
        dict(zip(("step", "loss", "grad_norm"), map(list, zip(*rows, strict=True)), strict=True))
    )


def pandas_columns(rows: list[Row]) -> str:
    cells = zip(("step", "loss", "grad_norm"), zip(*rows, strict=True), strict=True)
    return json.dumps({name: {str(i): value for i, value in enumerate(values)} for name, values in cells})


def csv(rows: list[Row]) -> str:
    return "step,loss,grad_norm\n" + "".join(f"{s},{loss},{norm}\n" for s, loss, norm in rows)


def wandb_chart(rows: list[Row]) -> str:
    head = '"Step","sunny-7 - train/loss","sunny-7 - train/loss__MIN","sunny-7 - train/loss__MAX","sunny-7 - train/grad_norm"'
    return head + "\n" + "".join(f'"{s}","{a}","0","9","{b}"\n' for s, a, b in rows)


def tabs(rows: list[Row]) -> str:
    return "Step\tTraining Loss\tGrad Norm\n" + "".join(f"{s}\t{loss}\t{norm}\n" for s, loss, norm in rows)


def page_table(rows: list[Row]) -> str:
    return "What I see:\n\n| Step | Training Loss | Grad Norm |\n|---|---|---|\n" + "".join(
        f"| {s} | {loss} | {norm} |\n" for s, loss, norm in rows
    )


WRITERS: list[Callable[[list[Row]], str]] = [
    *(hugging_face_log, newer_hugging_face_log, pipes, megatron, nano, fairseq, progress_bars, jsonl, swift),
    *(
        llama_factory,
        trainer_state,
        cut_trainer_state,
        columns,
        pandas_columns,
        csv,
        wandb_chart,
        tabs,
        page_table,
    ),
]
VALUES = st.floats(allow_nan=True, allow_infinity=True)
ROWS = st.lists(
    st.tuples(st.integers(1, 399_999), VALUES, VALUES), min_size=1, max_size=12, unique_by=lambda row: row[0]
).map(sorted)


def same(curve: Curve, rows: list[Row], rounded: type = float) -> None:
    steps, losses, norms = (np.array(column) for column in zip(*rows, strict=True))
    assert list(curve.step) == list(steps)
    np.testing.assert_array_equal(curve.loss, losses.astype(rounded))
    norms = norms.astype(rounded)
    np.testing.assert_array_equal(curve.grad_norm, np.where(np.isfinite(norms), norms, math.inf))


@pytest.mark.parametrize("write", WRITERS, ids=lambda one: one.__name__)
@settings(max_examples=40)
@given(rows=ROWS)
def test_what_is_written_in_a_form_is_read_back(write: Callable[[list[Row]], str], rows: list[Row]) -> None:
    same(read(write(rows)), rows)


# --- stores --------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protocol buffer: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def event(step: int, tag: str, value: float) -> bytes:
    """One record of a TensorBoard event file, checksums left out."""
    scalar = field(1, tag.encode()) + varint(2 << 3 | 5) + struct.pack("<f", value)
    message = (
        varint(1 << 3 | 1) + struct.pack("<d", 1.7e9 + step) + field(2, step) + field(5, field(1, scalar))
    )
    return struct.pack("<Q", len(message)) + bytes(4) + message + bytes(4)


def events(rows: list[Row]) -> bytes:
    return b"".join(event(s, "train/loss", a) + event(s, "train/grad_norm", b) for s, a, b in rows)


def store(rows: list[Row]) -> bytes:
    """A wandb offline store: LevelDB's log, in which a record may lie in parts in several blocks."""
    data = b":W&B\x00\x00\x00"
    for step, loss, norm in rows:
        values = {
            "train/global_step": step,
            "train/loss": loss,
            "train/grad_norm": norm,
            "note": "x" * 40_000,
        }
        items = [
            field(1, field(2, name.encode()) + field(16, json.dumps(v).encode()))
            for name, v in values.items()
        ]
        record = field(2, b"".join(items) + field(2, field(1, step)))
        while record is not None:
            left = 32768 - len(data) % 32768
            if left < 7:
                data += bytes(left)
                continue
            part, record = record[: left - 7], record[left - 7 :] or None
            kind = 4 if record is None else 2  # the last part, or one before it
            data += bytes(4) + struct.pack("<H", len(part)) + bytes([kind]) + part
    return data


SINGLE = st.lists(
    st.tuples(st.integers(1, 399_999), st.floats(width=32), st.floats(width=32)),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row[0],
).map(sorted)


@settings(max_examples=40)
@given(rows=SINGLE)
def test_tensorboard_events_are_read_back(rows: list[Row]) -> None:
    (curve,) = curves_of_bytes(events(rows), "here")
    same(curve, rows)


@settings(max_examples=20)
@given(rows=ROWS)
def test_a_wandb_store_is_read_back(rows: list[Row]) -> None:
    (curve,) = curves_of_bytes(store(rows), "here")
    same(curve, rows)
