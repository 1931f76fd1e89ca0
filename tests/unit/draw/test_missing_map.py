"""The missing-copy map says where the old copy leaves holes, for real model files, in seconds."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis.draw.missing import answer, by_nodes, missing_figure, missing_figures, missing_map
from harness.cli.diagnose import parse_nodes
from harness.cli.main import app
from harness.study import load_model_file, load_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

EXPERIMENTS = REPOSITORY / "experiments"
MODELS = EXPERIMENTS / "models"
LLAMA_70B = load_model_file(MODELS / "llama2-70b.yaml")


def test_powers_of_two_are_complete_and_other_clusters_are_not() -> None:
    table = {row["nodes"]: row for row in by_nodes(missing_map(LLAMA_70B, [1, 2, 3, 4, 5, 6, 8], 8))}
    assert {nodes for nodes, row in table.items() if row["elements_missing"] == 0} == {1, 2, 4, 8}
    assert 0.08 < table[3]["share_missing"] < table[5]["share_missing"] < table[6]["share_missing"] < 0.11


def test_one_secondary_partition_over_all_ranks_misses_nothing() -> None:
    assert by_nodes(missing_map(LLAMA_70B, [3], 8, hpz=24))[0]["elements_missing"] == 0


def test_since_0_13_5_nothing_is_missing() -> None:
    assert by_nodes(missing_map(LLAMA_70B, [3, 5, 6], 8, release="0.13.5"))[1]["elements_missing"] == 0


def test_layers_are_folded_and_counted() -> None:
    rows = missing_map(LLAMA_70B, [3], 8)
    assert {row.count for row in rows if "*" in row.parameter} == {80}
    assert sum(row.count for row in rows) == by_nodes(rows)[0]["parameters"] == 723


def test_the_map_is_drawn_with_its_table(tmp_path: Path) -> None:
    figure = missing_figure(missing_map(LLAMA_70B, range(1, 9), 8), "llama2-70b")
    assert [file.suffix for file in figure.write(tmp_path)] == [".csv", ".svg", ".png", ".pdf"]
    assert figure.svg() == figure.svg()


def test_the_command_answers_within_ten_seconds_of_work() -> None:
    started = time.process_time()
    arguments = [
        "audit",
        str(MODELS / "llama2-70b.yaml"),
        "--ranks-per-node",
        "8",
        "--nodes",
        "1-64",
        "--json",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert len(json.loads(done.stdout)["nodes"]) == 64
    assert time.process_time() - started < 10


@pytest.mark.parametrize(("text", "nodes"), [("4", [4]), ("1-3", [1, 2, 3]), ("2,5-6", [2, 5, 6])])
def test_nodes_are_numbers_and_ranges(text: str, nodes: list[int]) -> None:
    assert parse_nodes(text) == nodes


@pytest.mark.parametrize("text", ["", "0", "4-2", "two", "1-", "-3", "1-999999999"])
def test_other_nodes_are_refused(text: str) -> None:
    with pytest.raises(HarnessError, match="--nodes"):
        parse_nodes(text)


def test_an_unknown_release_or_partition_is_refused() -> None:
    with pytest.raises(HarnessError, match="--release"):
        missing_map(LLAMA_70B, [3], 8, release="newest")
    with pytest.raises(HarnessError, match="must divide the world size"):
        missing_map(LLAMA_70B, [3], 8, hpz=7)


@pytest.mark.parametrize("release", ["0.13.5", "0.18.0", "0.19.8"])
def test_a_right_copy_is_said_plainly(release: str) -> None:
    assert answer(missing_map(LLAMA_70B, [2, 3], 8, release=release), release) == (
        f"Never written: none, since 0.13.5 (#5216); DeepSpeed {release} copies every element."
    )


def test_the_old_copy_is_answered_with_the_node_counts_to_use() -> None:
    said = answer(missing_map(LLAMA_70B, range(1, 65), 8), "0.13.4")
    assert said.startswith("Elements are never written at 57 of 64 node counts")
    assert said.endswith("Complete at these node counts: 1, 2, 4, 8, 16, 32, 64.")


def test_sizes_too_small_for_the_world_are_named_until_0_19_5() -> None:
    tiny = load_model_file(MODELS / "llama2-toy-unaligned.yaml")
    assert "input_layernorm.weight has 63 elements" in answer(
        missing_map(tiny, [5], 8, release="0.18.0"), "0.18.0"
    )
    assert "stops" not in answer(missing_map(tiny, [5], 8, release="0.19.5"), "0.19.5")


def test_a_release_without_hpz_is_refused() -> None:
    with pytest.raises(HarnessError, match="hpZ came with DeepSpeed 0"):
        missing_map(LLAMA_70B, [3], 8, release="0.9.5")


def test_a_map_without_holes_can_be_drawn_and_marks_what_stops(tmp_path: Path) -> None:
    tiny = load_model_file(MODELS / "llama2-toy-unaligned.yaml")
    assert "stops with an error" in missing_figure(missing_map(tiny, [5], 8, release="0.18.0"), "tiny").svg()
    assert "stops with an error" not in missing_figure(missing_map(tiny, [4], 8), "tiny").svg()


def test_a_study_has_a_map_of_each_model_that_it_runs_with_the_old_copy() -> None:
    study = load_study(EXPERIMENTS / "paper.yaml")
    figures = [make() for make in missing_figures(study)]
    assert [figure.name for figure in figures] == [
        f"missing-copy_{name}"
        for name in ("llama2-7b", "llama2-13b", "llama2-70b", "falcon-7b", "falcon-40b")
    ]
    assert set(figures[0].table["nodes"]) == set(range(1, 65))
    assert missing_figures(load_study(EXPERIMENTS / "slow-link.yaml")) == []


def test_a_node_without_ranks_is_refused() -> None:
    done = CliRunner().invoke(app, ["audit", str(MODELS / "llama2-7b.yaml"), "--ranks-per-node", "0"])
    assert "--ranks-per-node: 0 is not a number of ranks; give 1 or more" in str(done.exception)


def test_the_command_writes_the_map_where_it_is_told(tmp_path: Path) -> None:
    model = str(MODELS / "falcon-7b-toy-unaligned.yaml")
    done = CliRunner().invoke(app, ["audit", model, "--nodes", "3", "--out", str(tmp_path)])
    assert done.exit_code == 0
    assert "word_embeddings.weight" in done.stdout
    assert {file.suffix for file in tmp_path.iterdir()} == {".csv", ".svg", ".png", ".pdf"}
