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
from harness.diagnose.read.setups import read_setup
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
    names = ("train/loss", "train/loss__MIN", "train/loss__MAX", "train/grad_norm")
    head = '"Step",' + ",".join(f'"sunny-7 - {name}"' for name in names)
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


# --- what is not written in every row, and what else a log says ------------------------------------------------------


def test_null_and_empty_count_as_not_finite_where_there_were_numbers() -> None:
    curve = read(jsonl([(1, 2.0, 1.0), (2, 1.9, 1.0)]) + '{"step": 3, "loss": null, "grad_norm": null}\n')
    assert list(curve.bad_loss) == list(curve.bad_gradient) == [False, False, True]
    assert "1 empty value of 'loss' counts as not finite" in curve.notes
    table = read("step,loss,lr\n1,2.0,1\n2,1.9,1\n3,,1\n4,,1\n")
    assert list(table.bad_loss) == [False, False, True, True]


def test_a_column_that_is_written_every_tenth_row_is_only_sparse() -> None:
    rows = [
        {"_step": step, "train/loss": 2.0 if step % 10 == 0 else None, "train/lr": 1.0}
        for step in range(1, 41)
    ]
    curve = read("".join(json.dumps(row) + "\n" for row in rows))
    assert list(curve.step) == [10, 20, 30, 40]
    assert not curve.notes


def test_a_loss_that_never_was_a_number_is_not_finite() -> None:
    curve = read('{"step": 1, "loss": null}\n{"step": 2, "loss": null}\n')
    assert list(curve.bad_loss) == [True, True]


def test_an_empty_log_is_a_curve_without_a_step_and_an_empty_file_is_said_to_be_one() -> None:
    started = "[2026-01-01 00:00:00,000] [INFO] [engine.py:1:f] starting\n"
    for text, said in (("", "it is empty"), ("\n", "it is empty"), (started, "no step was logged")):
        curve = read(text)
        assert len(curve) == 0 and curve.notes == (said,)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_decimal_comma_is_read_where_no_comma_parts_the_cells(delimiter: str) -> None:
    rows = [("Step", "Loss", "lr"), ("1", "2,5", "1,5e-4"), ("2", "1.234,5", "0"), ("3", "2.4", "")]
    curve = read("".join(delimiter.join(row) + "\n" for row in rows))
    assert list(curve.loss) == [2.5, 1234.5, 2.4] and curve.learning_rate[0] == 1.5e-4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Step,Loss\n\n1,high\n2,low\n",
            "here: line 3 has 'high' for 'Loss', which is no number; write losses as numbers",
        ),
        ('Step,Loss\n1,"2,5"\n', "here: line 2 has '2,5' for 'Loss', which is no"),
        ('{"step": 1}\n{"step": 2, "loss": "high"}\n', "here: line 2 has 'high' for 'loss', which is no"),
    ],
)
def test_a_loss_without_a_number_is_refused_by_its_line(text: str, said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        read(text)


def test_gradient_norms_alone_are_a_curve() -> None:
    curve = read("Step,run-7 - train/grad_norm\n0,1.5\n1,NaN\n2,1.5\n")
    assert not curve.has_loss and not curve.bad_loss.any()
    assert list(curve.bad_gradient) == [False, True, False]


def test_evaluations_alone_are_said_to_be_that() -> None:
    curve = read('{"log_history": [{"eval_loss": 2.5, "eval_accuracy": 0.25, "step": 10}]}')
    assert len(curve) == 0 and not curve.has_loss
    assert (list(curve.eval_step), list(curve.eval_loss), list(curve.eval_accuracy)) == ([10], [2.5], [0.25])
    assert "only evaluations, no training loss" in curve.notes


def test_evaluations_between_steps_are_kept_apart() -> None:
    curve = read(
        "{'loss': 2.0, 'step': 1}\n{'eval_loss': 3.0, 'step': 1}\n{'loss': 1.0, 'step': 2}\nstep 2: val loss 9\n"
    )
    assert list(curve.loss) == [2.0, 1.0] and list(curve.eval_loss) == [3.0]


def test_steps_that_are_not_there_are_counted_and_that_is_said() -> None:
    curve = read("loss: 2.0 | lr: 1e-5\nloss: nan | lr: 1e-5\n")
    assert list(curve.step) == [1, 2] and curve.steps_counted
    assert "the source has no steps; counted 1, 2, 3, …" in curve.notes
    assert math.isnan(curve.loss[1])


def test_the_bar_of_an_evaluation_is_not_that_of_the_training() -> None:
    evaluation = "".join(f" 50%|█████     | {done}/90 [00:01<00:00,  4.1it/s]\r" for done in range(90))
    curve = read(
        "{'loss': 2.0}\n  1%|▏  | 10/30 [00:10<00:20,  1.0it/s]\r" + evaluation + "{'eval_loss': 3.0}\n"
        "{'loss': 1.5}\n  2%|▏  | 20/30 [00:20<00:10,  1.0it/s]\r{'train_runtime': 9.0, 'train_loss': 1.7}\n"
        " 100%|██| 30/30 [00:20<00:10,  1.0it/s]\r"
    )
    assert list(curve.step) == [10, 20] and list(curve.eval_loss) == [3.0]


@pytest.mark.parametrize("text", ["[2.0, 1.5, NaN]", "2.0\n1.5\nnan\n", "2.0, 1.5, nan", "[2.0 1.5 NaN]"])
def test_plain_numbers_are_losses(text: str) -> None:
    np.testing.assert_array_equal(read(text).loss, [2.0, 1.5, math.nan])


def test_each_rank_may_print_its_line() -> None:
    lines = "".join(
        f"[rank{rank}] step {step}, loss = {3 - step}.{rank}\n" for step in (1, 2) for rank in range(4)
    )
    curve = read(lines)
    assert list(curve.loss) == [2.0, 1.0]
    assert not curve.restarts


def test_steps_that_begin_anew_with_each_epoch_are_counted_on() -> None:
    curve = read(
        "".join(f"Epoch {epoch}, Step {step}, Loss: 2.0\n" for epoch in (0, 1) for step in (1, 2, 3))
    )
    assert list(curve.step) == [1, 2, 3, 4, 5, 6]


def test_parts_of_a_loss_are_not_the_loss() -> None:
    curve = read("step: 1 aux loss: 0.1 loss: 2.0 z_loss: 0.3\nstep: 2 aux loss: 0.1 loss: 1.5 z_loss: 0.3\n")
    assert list(curve.loss) == [2.0, 1.5]


LOG = """[2026-01-05 10:00:00,123] [INFO] [logging.py:96:log_dist] DeepSpeed info: version=0.13.4, git-hash=u
torch version .................... 2.1.2
[2026-01-05 10:00:01,123] [INFO] [config.py:1000:print]   world_size ................... 16
[2026-01-05 10:00:01,124] [INFO] [config.py:986:print_user_config]   json = {
    "train_micro_batch_size_per_gpu": 1,
    "bf16": {
        "enabled": true
    },
    "zero_optimization": {
        "stage": 3,
        "zero_hpz_partition_size": 8
    }
}
{'loss': 2.5, 'grad_norm': 1.0, 'step': 1}
[deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 65536, reducing to 32768
[rank3]: Traceback (most recent call last):
[rank3]: AssertionError: ZeRO parameter intra parallel group is already initialized
"""


def test_a_log_says_what_it_was_that_ran() -> None:
    curve = read(LOG)
    told = curve.told
    assert (told.release, told.torch, told.world_size) == ("0.13.4", "2.1.2", 16)
    assert told.config is not None and told.config["zero_optimization"]["zero_hpz_partition_size"] == 8
    assert curve.errors == ("AssertionError: ZeRO parameter intra parallel group is already initialized",)
    assert curve.overflows == 1


# --- several runs, encodings, folders --------------------------------------------------------------------------------

TWO = {
    "columns.csv": "Step,a - train/loss,b - train/loss\n1,2.0,\n2,1.9,3.0\n3,1.8,2.5\n4,,2.4\n",
    "named.jsonl": "".join(
        json.dumps({"run": run, "step": s, "loss": 3.0 - s}) + "\n" for run in "ab" for s in (1, 2, 3)
    ),
    "one_after_the_other.log": "".join(f"step {s} loss {3 - s}.0\n" for s in (1, 2, 3)) * 2,
}


@pytest.mark.parametrize("name", TWO)
def test_several_runs_in_one_file_are_taken_apart(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TWO[name])
    curves = read_curves(tmp_path / name)
    assert [len(curve) for curve in curves] == [3, 3]
    assert len({curve.name for curve in curves}) == 2
    with pytest.raises(HarnessError, match=r"holds the curves of several runs .*; name one with --run"):
        read_curve(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        LOG.encode("utf-16"),
        LOG.encode("utf-8-sig"),
        gzip.compress(LOG.encode()),
        LOG.replace("{'loss'", "\x1b[32m{'loss'\x1b[0m").replace("\n", "\r\n").encode(),
        ("  5%|█▊ | 1/20 [00:01<00:20]\r" + LOG).encode("cp437", errors="replace"),
    ],
    ids=["powershell", "mark", "gzip", "colours", "foreign-letters"],
)
def test_bytes_in_every_way_that_logs_are_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log").write_bytes(content)
    assert list(read_curve(tmp_path / "log").loss) == [2.5]


def test_a_folder_of_events_or_of_deepspeeds_own_tables_is_read(tmp_path: Path) -> None:
    rows = [(1, 2.0, 1.0), (2, 1.5, math.inf)]
    (tmp_path / "tb" / "runs").mkdir(parents=True)
    (tmp_path / "tb" / "runs" / "events.out.tfevents.1.host").write_bytes(events(rows))
    same(read_curve(tmp_path / "tb"), rows)
    (tmp_path / "csv").mkdir()
    for file, column, index in (("train_loss", "Train/Samples/train_loss", 1), ("lr", "Train/Samples/lr", 2)):
        body = "".join(f"{row[0]},{row[index]}\n" for row in rows)
        (tmp_path / "csv" / f"Train_Samples_{file}.csv").write_text(f"step,{column}\n{body}")
    curve = read_curve(tmp_path / "csv")
    assert list(curve.loss) == [2.0, 1.5] and list(curve.learning_rate) == [1.0, math.inf]


def test_parts_of_an_interrupted_wandb_run_are_one_curve(tmp_path: Path) -> None:
    for part, steps in (("a", (1, 2)), ("b", (3, 4))):
        (tmp_path / f"offline-run-{part}").mkdir()
        file = tmp_path / f"offline-run-{part}" / "run-x1.wandb"
        file.write_bytes(store([(step, 1.0, 1.0) for step in steps]))
    assert list(read_curve(tmp_path).step) == [1, 2, 3, 4]


LINES = {
    # A line of a log in the forms of some trainers, and its step, loss and gradient norm.
    "[10:00:01.95] Epoch: [0]  [30/1504]  lr: 0.00002  closs: 1.25 (1.13)  grad_norm: 0.5 (1.2)  data: 0.0": (
        30,
        1.25,
        0.5,
    ),
    "2026-01-05 10:00:00,215 - mm - INFO - Epoch [1][54/308]\tlr: 8e-05, loss/head/a: 0.3, loss: 4.5, grad_norm: nan": (
        54,
        4.5,
        math.inf,
    ),
    "| Training Device=xla:0/3 Epoch=1 Step=280 Loss=0.25 Rate=1760.91 Time=07:29:39": (280, 0.25, math.nan),
    "1|20|Loss: 2.5:   2%|▏ | 20/1000 [00:04<33:00,  2.0s/it]": (20, 2.5, math.nan),
    "[titan] 2026-01-01 10:00:00,000 - root - INFO - step: 10  loss:  6.5  grad_norm:  2.25  memory: 40.15GiB": (
        10,
        6.5,
        2.25,
    ),
    " steps: 20 loss: nan iter time (s): 0.523 samples/sec: 61.1": (20, math.nan, math.nan),
    "Train Epoch: 0 [ 128/60000 (0%)]\tLoss: 2.500000": (128, 2.5, math.nan),
    "INFO - Iter(train) [  20/1000]  lr: 1e-05  eta: 1:00:00  loss: 1.5  grad_norm: 2.5": (20, 1.5, 2.5),
    "Train step of epoch 0: 3%|▎ | 5/150 [00:30<14:00, 5.8s/it, gpt_loss=2.25, lr=1e-6]": (5, 2.25, math.nan),
    "Training Epoch: 0 Training Iteration: 2351  step_loss : 0.5  learning_rate : 1.9e-05": (
        2351,
        0.5,
        math.nan,
    ),
    "step 5: tensor(2.5, device='cuda:0') loss tensor(2.5, device='cuda:0', grad_fn=<NllLossBackward0>)": (
        5,
        2.5,
        math.nan,
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_lines_of_many_trainers_are_read(line: str) -> None:
    step, loss, norm = LINES[line]
    curve = read(line + "\n")
    assert list(curve.step) == [step]
    np.testing.assert_array_equal(curve.loss, [loss])
    np.testing.assert_array_equal(curve.grad_norm, [norm])


def test_deepspeeds_own_lines_hold_no_loss_and_that_is_said() -> None:
    line = (
        "[INFO] [logging.py:96:log_dist] [Rank 0] step={}, skipped=8, lr=[1e-06, 5e-04], mom=[(0.9, 0.95)]\n"
    )
    curve = read(line.format(510) + line.format(520))
    assert list(curve.step) == [510, 520] and not curve.has_loss and curve.overflows == 8
    assert "neither a loss nor a gradient norm was logged; have the script print its loss" in curve.notes


def test_a_scale_of_the_loss_is_not_the_loss() -> None:
    line = " iteration {}/ 9000 | learning rate: 3.0E-04 | loss scale: 1.0 | grad norm: nan |\n"
    curve = read(line.format(1) + line.format(2))
    assert not curve.has_loss and curve.bad_gradient.all() and list(curve.loss_scale) == [1.0, 1.0]


def test_zero_settings_are_read_of_a_log_whose_json_is_cut_off() -> None:
    told = read(
        "[INFO] [config.py:1:print]   zero_config .................. stage=3 overlap_comm=True offload_param="
        "DeepSpeedZeroOffloadParamConfig(device='cpu', nvme_path=None) zero_hpz_partition_size=8\n"
    ).told
    assert told.config == {
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": True,
            "zero_hpz_partition_size": 8,
            "offload_param": {"device": "cpu"},
        }
    }


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("deepspeed info ................... 0.12.3, unknown, unknown", "0.12.3"),
        ("- DeepSpeed version: 0.15.4\n- PyTorch version: 2.5.1+cu124 (GPU)", "0.15.4"),
        ("| deepspeed | 0.16.9 |", "0.16.9"),
        ("pip install deepspeed==0.13.2", "0.13.2"),
        ("bad with deepspeed==0.13.5 but good with deepspeed==0.10.2", None),
        (
            "DeepSpeed info: version=0.13.5+e1a2f3, git-hash=e1a2f3; good with deepspeed==0.10.2",
            "0.13.5+e1a2f3",
        ),
    ],
)
def test_the_release_is_taken_where_the_text_says_one(text: str, release: str | None) -> None:
    assert read(f"INFO {text}\n").told.release == release


# --- whatever it is, it is read or refused in one sentence ----------------------------------------------------------

PIECES = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        "'loss'",
        '"loss"',
        ":",
        ",",
        " ",
        "\n",
        "\t",
        "nan",
        "NaN",
        "null",
        "1e5",
        "12",
        "3/40",
        "step",
        "loss",
        "Step,loss\n",
        "grad_norm",
        "eval_loss",
        " | ",
        "[Rank 0] step=1, skipped=0, lr=[1]",
        "1/9 [00:01<",
        "json = {",
        "{}",
        "é",
        "-inf",
    ]
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        curves = curves_in(text, "here")
    except HarnessError as refused:
        assert "\n" not in str(refused) and str(refused).startswith("here: ")
        return
    assert all(
        len(curve.step) == len(curve.loss) == len(curve.grad_norm) == len(curve.learning_rate)
        for curve in curves
    )


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b":W&B\x00\x00\x00", b"\x1f\x8b", b"\x20" + bytes(11) + b"\x09", b"\xff\xfe"]),
)
def test_any_bytes_are_read_or_refused(content: bytes, head: bytes) -> None:
    try:
        curves_of_bytes(head + content, "here")
    except HarnessError as refused:
        assert "\n" not in str(refused)


@pytest.mark.parametrize(
    "line", ["swift sft --deepspeed zero2 --lr 1e-5", "deepspeed: examples/deepspeed/ds_z2_config.json"]
)
def test_a_log_that_names_a_trainers_own_configuration_tells_its_stage(line: str) -> None:
    told = read(f"{line}\n{{'loss': 2.0, 'grad_norm': 1.0}}\n{{'loss': 0.0, 'grad_norm': nan}}\n").told
    setup = read_setup(None, told=told)
    assert (setup.has_config, setup.stage, setup.overlap) == (True, 2, None)


def test_a_log_that_names_two_configurations_tells_none() -> None:
    told = read("--deepspeed zero2\n--deepspeed zero3\n{'loss': 2.0}\n{'loss': 1.9}\n").told
    assert not read_setup(None, told=told).has_config


def test_a_loss_scale_of_1_in_every_line_says_that_nothing_is_scaled() -> None:
    line = "iteration {} | loss scale: {} | grad norm: nan | number of skipped iterations: 0 |\n"
    assert read("".join(line.format(step, "1.0") for step in (1, 2, 3))).told.scaled is False
    assert read("".join(line.format(step, 65536.0 / step) for step in (1, 2, 4))).told.scaled is True


TWELVE = [8.0 - step / 4 for step in range(1, 13)]


def logged(line: Callable[[int, float], str]) -> str:
    return "".join(line(step, loss) for step, loss in enumerate(TWELVE, 1))


ODD_LOGS = {
    "loguru": logged(
        lambda n, loss: (
            f"2026-03-01 12:00:{n:02d}.123 | INFO     | loop:train_step:{n % 3} - step={n} loss={loss}\n"
        )
    ),
    "nested JSON lines": logged(
        lambda n, loss: json.dumps({"data": {"step": n, "train": {"loss": loss, "lr": 1e-4}}}) + "\n"
    ),
    "nested JSON after a prefix": logged(
        lambda n, loss: f"INFO:root:{json.dumps({'step': n, 'metrics': {'loss': loss}, 'x': {'y': 1}})}\n"
    ),
    "Keras": logged(
        lambda n, loss: (
            ("" if n % 4 != 1 else f"Epoch {n // 4 + 1}/3\n")
            + f"\r{(n - 1) % 4 + 1}/4 [==>...] - ETA: 0s - loss: {loss:.4f} - accuracy: 0.5"
            + ("\n" if n % 4 == 0 else "")
        )
    ),
    "Keras, a line an epoch": logged(
        lambda n, loss: f"Epoch {n}/12\n1/1 - 1s - loss: {loss} - val_loss: {loss + 1} - 1s/epoch\n"
    ),
    "Composer": logged(lambda n, loss: f"[batch={n}/12]:\n\t Train loss/train/total: {loss}\n"),
    "a comment before the head": "# exported\nstep,loss\n" + logged(lambda n, loss: f"{n},{loss}\n"),
    "a head that numpy wrote": "# step,loss\n" + logged(lambda n, loss: f"{n},{loss}\n"),
    "columns parted by a blank": "step loss\n" + logged(lambda n, loss: f"{n} {loss}\n"),
}


def test_of_a_keras_bar_drawn_again_in_its_line_the_last_loss_counts() -> None:
    line = "Epoch {0}/3\n9/9 [===] - ETA: 0s - loss: 80.1 - ETA: 0s - loss: {1} - 0s 4ms/step - loss: {1}\n"
    curve = read("".join(line.format(epoch, loss) for epoch, loss in enumerate((60.5, "nan", 50.5), 1)))
    assert list(curve.step) == [9, 18, 27] and list(curve.bad_loss) == [False, True, False]


def test_a_validation_of_torchtitan_is_no_step_of_training() -> None:
    lines = "[titan] INFO - validate step:  1  loss:  9.5\n[titan] INFO - step:  1  loss:  8.5\n"
    curve = read(lines + "[titan] INFO - step:  2  loss:  8.0\n")
    assert (list(curve.loss), list(curve.eval_loss)) == ([8.5, 8.0], [9.5])


@pytest.mark.parametrize("name", ODD_LOGS)
def test_odd_logs_are_one_curve_at_its_steps(name: str) -> None:
    curve = read(ODD_LOGS[name])
    assert list(curve.step) == list(range(1, 13)) and list(curve.loss) == TWELVE


@pytest.mark.parametrize("rank", ["[rank{}]: ", "[default{}]:", "{}: "])
def test_of_several_ranks_the_first_counts_and_a_nan_of_any(rank: str) -> None:
    steps = [(step, n) for first in (1, 5, 9) for n in (0, 1) for step in range(first, first + 4)]
    lines = [
        rank.format(n) + f"step {step} loss {'nan' if (step, n) == (6, 1) else TWELVE[step - 1] + n}"
        for step, n in steps
    ]
    curve = read("\n".join(lines))
    assert list(np.flatnonzero(curve.bad_loss)) == [5]
    assert list(np.delete(curve.loss, 5)) == list(np.delete(TWELVE, 5))
    assert curve.notes == ("lines of 2 ranks; those of rank 0 count, and a loss of any that is not finite",)


def test_a_nan_that_a_line_says_after_the_last_dictionary_counts() -> None:
    step = '{{\n  "step": {0},\n  "total_loss": {1}\n}}\nEpoch: 0, Step: {2}, Rank: 0, loss = {3}\n'
    log = "".join(step.format(n, loss, n + 1, "nan" if n == 12 else 9) for n, loss in enumerate(TWELVE, 1))
    curve = read(log + "ZeroDivisionError: float division by zero\n")
    assert list(curve.step) == list(range(1, 14)) and list(np.flatnonzero(curve.bad_loss)) == [12]


TABLE = "| Step | {} | ZeRO-3 |\n|---|---|---|\n" + logged(lambda n, loss: f"| {n} | {loss} | {loss + 1} |\n")


def test_columns_of_runs_hold_what_the_text_above_speaks_of() -> None:
    for said, quantity in (
        ("the grad_norm, then the loss of", "loss"),
        ("its **loss**; grad norm:", "grad_norm"),
    ):
        one, other = curves_in(f"Here is {said} each\n\n{TABLE.format('ZeRO-2')}\nand more text\n", "post")
        assert (one.name, other.name) == ("ZeRO-2", "ZeRO-3")
        assert [list(getattr(one, quantity)), getattr(other, quantity)[0]] == [TWELVE, TWELVE[0] + 1]
        assert any("which the text above speaks of" in note for note in one.notes)


def test_a_column_that_measures_something_else_is_no_run() -> None:
    (curve,) = curves_in("The loss:\n" + TABLE.format("Tokens per second"), "post")
    assert curve.loss[0] == TWELVE[0] + 1
    with pytest.raises(HarnessError, match="nothing that is known as a curve"):
        curves_in("How fast it is:\n" + TABLE.format("ZeRO-2"), "post")


def test_each_table_of_a_post_is_a_run() -> None:
    post = "".join(f"{run}:\n{TABLE.format('Loss')}\n" for run in ("before", "after"))
    first, second = curves_in(post, "post")
    assert list(first.loss) == list(second.loss) == TWELVE


def test_what_is_not_finite_beside_the_curve_is_said() -> None:
    line = "step:{} - critic/vf_loss:{} - critic/grad_norm:nan - actor/pg_loss:0.1 - actor/grad_norm:{}\n"
    said = "not finite, but neither the loss nor the gradient norm that is judged: critic/vf_loss, critic/grad_norm"
    assert said in read("".join(line.format(step, "nan", "nan") for step in (1, 2, 3))).notes
    assert not any("not finite, but" in note for note in read("step: 1 loss: nan\nstep: 2 loss: 2\n").notes)
