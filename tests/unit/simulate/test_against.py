"""Published measurements are read as people write them, simulated with every candidate, and refused with the reason."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.simulate import shapes, stated
from harness.simulate.against import NEEDED, against, candidates, errors, read_rows
from harness.simulate.stated import CannotSimulate
from harness.system.errors import HarnessError

ROW = {
    "source": "somebody's table",
    "model": "Llama-2-7B",
    "params": "6.74e9",
    "gpus": "16",
    "gpu_type": "A100-SXM4 80GB",
    "nodes": "2",
    "gpus_per_node": "8",
    "inter_link_gbps": "1600 (8 x HDR)",
    "seq_len": "4096",
    "micro_batch": "1",
    "grad_acc": "1",
    "act_ckpt": "full",
    "attention": "FlashAttention 2",
    "sharding": "FSDP full shard",
    "precision": "bf16",
    "framework": "PyTorch 2.4",
    "metric": "tokens_per_second_per_gpu",
    "value": "2500",
    "unit": "tokens/s/GPU",
    "notes": "",
}


def row(**changes: str) -> dict[str, str]:
    return {**ROW, **changes}


def write(file: Path, *rows: dict[str, str]) -> Path:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(ROW))
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_a_row_whose_settings_are_stated_has_one_candidate() -> None:
    (reading,), assumed = candidates(row(inter_link_gbps="100 (IB EDR)"))
    assert assumed == ""
    assert (reading.step.world, reading.step.sequence_length, reading.step.model.layers) == (16, 4096, 32)
    assert reading.on.network.bits_per_second == 100e9


def test_what_is_not_stated_is_simulated_in_every_way_that_it_may_have_been() -> None:
    readings, assumed = candidates(row(inter_link_gbps="not stated", attention="not stated"))
    assert assumed == "network between nodes; attention"
    assert {reading.on.network.bits_per_second / 1e9 for reading in readings} == {400, 800, 1600}
    assert {reading.step.attention for reading in readings} == {"eager", "flash"}


def test_the_range_counts_and_not_the_candidate_that_fits() -> None:
    (found,) = against([row(act_ckpt="not stated", sequence_length="512")]).to_dict("records")
    assert found["low"] < found["predicted"] < found["high"]
    assert found["error"] == pytest.approx(found["predicted"] / 2500 - 1)


@pytest.mark.parametrize(
    ("text", "number"),
    [("8 (whether per GPU not stated)", 8), ("2K", 2048), ("1,024", 1024), ("not stated", None), ("", None)],
)
def test_numbers_are_read_with_what_stands_behind_them(text: str, number: int | None) -> None:
    assert stated.count(text) == number


@pytest.mark.parametrize(
    ("name", "layers", "hidden"),
    [
        ("MPT-30b (layers x width 48x7168, MLP 4x, vocab 50368)", 48, 7168),
        ("GPT-2 18B (40 x 6144, 32 heads)", 40, 6144),
        ("LLaMA-7B", 32, 4096),
        ("meta-llama/Llama-3.1-70B", 80, 8192),
        ("Falcon-40B", 60, 8192),
        ("Mistral 7B", 32, 4096),
    ],
)
def test_models_are_known_by_their_name_or_their_numbers(name: str, layers: int, hidden: int) -> None:
    (shape,) = shapes.model_of(row(model=name, params="not stated")).values
    assert (shape.layers, shape.hidden) == (layers, hidden)


def test_a_gpt_of_a_size_has_about_that_many_parameters() -> None:
    found = shapes.model_of(row(model="GPT 49B", params="49e9"))
    assert found.values[0].parameters == pytest.approx(49e9, rel=0.1)
    assert "shape" in found.assumed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sharding": "TP 4 PP 2"}, "tensor or pipeline parallelism"),
        ({"sharding": "ZeRO-3 with CPU offload"}, "host memory"),
        ({"precision": "FP8"}, "FP8"),
        ({"model": "Mixtral 8x7B"}, "mixture of experts"),
        ({"model": "an unnamed net", "params": "not stated"}, "shape is not known"),
        ({"gpu_type": "TPU v4"}, "no profile"),
        ({"micro_batch": "not stated"}, "micro-batch"),
        ({"metric": "loss"}, "not of a simulated step"),
        ({"value": "about the same"}, "no measurement"),
    ],
)
def test_a_row_that_cannot_be_simulated_says_why(changes: dict[str, str], reason: str) -> None:
    (found,) = against([row(**changes)]).to_dict("records")
    assert found["error"] is None and not found["comparable"]
    assert reason in found["why_not"]


def test_uncertain_rows_are_simulated_but_not_counted() -> None:
    table = against([row(), row(notes="UNCERTAIN: read off a chart")])
    assert errors(table)["rows"] == 1
    assert table["error"].notna().all()


def test_what_would_not_fit_on_the_card_was_not_run() -> None:
    readings, _ = candidates(row(attention="not stated", act_ckpt="no", micro_batch="2", nodes="1", gpus="8"))
    assert {reading.step.attention for reading in readings} == {"flash"}


def test_gathers_run_ahead_where_deepspeeds_default_of_live_parameters_holds_two_blocks() -> None:
    deepspeed = row(sharding="ZeRO-3", inter_link_gbps="100")
    assert {reading.step.blocks_ahead for reading in candidates(deepspeed)[0]} == {0, 1}
    wide = {**deepspeed, "model": "GPT 96 x 12288", "gpus": "512", "nodes": "64"}
    assert {reading.step.blocks_ahead for reading in candidates(wide)[0]} == {0}


def test_rows_that_leave_little_open_are_summed_up_beside_all() -> None:
    found = errors(against([row(inter_link_gbps="100"), row(inter_link_gbps="not stated", act_ckpt="?")]))
    assert (found["rows"], found["determined"]["rows"]) == (2, 1)


def test_milliseconds_and_seconds_are_the_same_time() -> None:
    times = [
        row(metric="iteration_time", value=value, unit=unit) for value, unit in (("1500", "ms"), ("1.5", "s"))
    ]
    first, second = against(times).to_dict("records")
    assert first["error"] == pytest.approx(second["error"])


def test_rows_of_micro_benchmarks_are_left_alone() -> None:
    assert against([row(sharding="", metric="all_reduce_busbw")]).empty


def test_a_file_that_lacks_a_column_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("model,value\nLlama-2-7B,3\n")
    with pytest.raises(HarnessError, match=r"mine\.csv: lacks the columns params, gpus"):
        read_rows(file)


def test_the_command_prints_errors_and_writes_table_and_figure(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.csv", row(), row(sharding="TP 8"))
    done = CliRunner().invoke(
        app, ["simulate", "--against", str(file), "--results", str(tmp_path / "out"), "--json"]
    )
    assert done.exit_code == 0, done.output
    summary: dict[str, Any] = json.loads(done.stdout)
    assert summary["errors"]["rows"] == 1 and summary["by"]["card"]["A100-SXM4 80GB"]["rows"] == 1
    assert {each.name for each in (tmp_path / "out").iterdir()} >= {
        "against.csv",
        "against.json",
        "against.svg",
    }


def test_needed_columns_are_those_of_the_shipped_table() -> None:
    assert set(NEEDED) <= set(ROW)
    with pytest.raises(CannotSimulate):
        stated.stack_of(row(sharding="something new"))


def test_a_value_that_is_no_number_and_a_card_that_is_not_known_are_reasons_not_numbers() -> None:
    rows = [
        row | {"sharding": "FSDP full shard"}
        for row in read_rows(Path(stated.__file__).with_name("published.csv"))[:1]
    ]
    table = against([rows[0] | {"value": "3k7"}, rows[0] | {"gpu_type": "RTX 9999"}])
    assert not table["comparable"].any()
    assert table["why_not"][0] == "value '3k7' is no measurement"
    assert errors(table)["rows"] == 0
