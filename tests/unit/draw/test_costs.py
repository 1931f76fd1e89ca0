"""Cost figures show each pair with its settings, name all their runs, and refuse to be drawn from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.collect.collect import collect_study
from analysis.draw.costs import bytes_figure, cost_figures, waits_figure
from analysis.draw.settings import settings
from analysis.draw.times import times_figure
from analysis.judge.summary import summarise
from harness.study import Run, load_study
from harness.system.errors import HarnessError
from tests.synthetic import Curve, healthy, write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")

LINKS = {
    "device": "cpu",
    "baseline": {"variant": "zero3"},
    "training": {"steps": 32},
    "matrix": {
        "model": "toy",
        "variant": ["fixed", "event"],
        "shape": "2x2-hpz2",
        "link": ["50mbit", "1gbit"],
        "gradient_accumulation": [1, 2],
    },
}


def over_links(run: Run) -> Curve:
    """hpZ takes nine tenths of ZeRO-3's time, but for one step."""
    seconds = [0.1 * (1 + 0.01 * (step % 3)) for step in range(32)]
    if run.variant != "zero3":
        seconds = [one * (0.9 + 0.001 * (step % 5)) for step, one in enumerate(seconds)]
        seconds[20] = 0.5
    return Curve(healthy(run), secondary_gathers=30 if run.shape.hpz > 1 else 0, step_seconds=seconds)


def summary_of(folder: Path) -> dict[str, Any]:
    return summarise(load_study(folder), collect_study(folder))


def test_step_times_stand_by_link_and_accumulation_with_what_stands_out(tmp_path: Path) -> None:
    write_study(tmp_path, over_links, **LINKS)
    figure = times_figure(summary_of(tmp_path))
    assert set(figure.table["settings"]) == {"g=1, 50mbit", "g=2, 50mbit", "g=1, 1gbit", "g=2, 1gbit"}
    assert figure.table["ratio"].to_list() == pytest.approx([0.9] * 8, abs=0.01)
    assert set(figure.table["blocks"]) == {30}
    assert all(len(text.split()) == 1 for text in figure.table["outliers"])
    svg = figure.svg()
    assert "g=2, 50mbit" in svg and "median of 30 blocks" in svg


def test_bytes_name_all_runs_of_either_side(tmp_path: Path) -> None:
    study = write_study(tmp_path, over_links, **LINKS)
    figure = bytes_figure(summary_of(tmp_path))
    assert set(figure.run_ids) == {run.run_id for run in study.runs}
    named = {(row.sharding, row.where): row.run_ids for row in figure.table.itertuples()}
    assert len(named) == 4
    assert "_zero3_" in named["ZeRO-3", "between nodes"] and "_fixed_" not in named["ZeRO-3", "inside a node"]
    assert "_fixed_" in named["hpZ", "inside a node"] and "_event_" in named["hpZ", "between nodes"]
    assert "inside a node" in figure.svg()


def test_host_waits_are_those_beyond_zero3(tmp_path: Path) -> None:
    write_study(tmp_path)
    figure = waits_figure(summary_of(tmp_path))
    extra = figure.table.groupby("variant")["extra_host_waits_per_step"].first().to_dict()
    assert (extra["fixed"], extra["event"]) == (24, 0)
    assert "beyond ZeRO-3" in figure.svg()


def test_a_study_without_costs_has_no_figure_of_them() -> None:
    nothing: dict[str, Any] = {"pairs": [], "audit": [], "wire": []}
    assert cost_figures(nothing) == []
    with pytest.raises(HarnessError, match="figure host_waits needs at least one finished pair"):
        waits_figure(nothing)


def test_settings_are_those_in_which_pairs_differ() -> None:
    one = {
        "release": "0.19.8",
        "device": "cpu",
        "shape": {"nodes": 2, "ranks_per_node": 2, "hpz": 2},
        "gradient_accumulation": 1,
        "throughput_timer": True,
        "link": None,
        "axes": {},
        "poison": "none",
    }
    zero3 = {**one, "shape": {"nodes": 2, "ranks_per_node": 2, "hpz": 1}}
    assert settings([one, zero3]) == ["", ""]
    assert settings([one, {**one, "link": "1gbit", "throughput_timer": False}]) == ["", "no timer, 1gbit"]
    assert settings([]) == []
