"""Tables, figures and exports of simulated time, from made-up cells."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from analysis.draw.simulated import simulated_figures
from analysis.draw.simulated_windows import shown_margins
from harness.simulate.engine import simulate
from harness.simulate.export import chrome_trace, write_chrome_trace
from harness.simulate.records import CORNER_COLUMNS, MARGIN_COLUMNS, Simulated
from harness.simulate.tables import hpz_sizes, ninety_eight, read, scaling, sync_cost, windows, write
from harness.simulate.trace import Secondary
from harness.system.errors import HarnessError
from tests.simulated_help import CONTENDED, gather, made_up, op, program, record, sync, wait


@pytest.fixture
def simulated() -> Simulated:
    return made_up()


def test_orderings_are_held_against_the_unordered_one_and_zero3(simulated: Simulated) -> None:
    table = sync_cost(simulated).set_index("variant")
    assert table.loc["fixed", "cost_of_order"] == pytest.approx(0.05)
    assert table.loc["fixed", "speed_kept"] == pytest.approx(2.0 / 2.1)
    assert table.loc["fixed", "lost_overlap_seconds"] == pytest.approx(0.1)
    assert table.loc["event", "speedup_over_zero3"] == pytest.approx(1.5)
    assert table.loc["event", "bytes_bound"] == pytest.approx(2.0)


def test_both_readings_of_98_percent_are_judged_with_their_bound(simulated: Simulated) -> None:
    first, second = ninety_eight(sync_cost(simulated))
    assert (first["reading"], first["judgement"], first["bytes_bound"]) == ("R1", "not reached", 2.0)
    assert (second["reading"], second["judgement"]) == ("R2", "not reached")
    simulated.cells.loc[simulated.cells["variant"] == "zero3", "node_nic_bytes"] = 3e10
    assert ninety_eight(sync_cost(simulated))[0]["judgement"] == "impossible by bytes"


def test_a_reading_whose_reference_was_not_simulated_is_left_out(
    simulated: Simulated, tmp_path: Path
) -> None:
    cells = simulated.cells[simulated.cells["variant"] != "zero3"]
    files = write(Simulated("paper", cells, simulated.margins), tmp_path)
    assert [claim["reading"] for claim in json.loads(files["json"].read_text())["claims"]] == ["R2"]
    write(Simulated("paper", cells[cells["variant"] == "fixed"], simulated.margins), tmp_path)
    assert json.loads(files["json"].read_text())["claims"] == []


def test_efficiency_is_against_the_smallest_world(simulated: Simulated) -> None:
    table = scaling(simulated).set_index("gpus")
    assert table["efficiency"].to_dict() == {16: 1.0, 64: 0.9, 1024: 0.5}
    assert set(table["limited_by"]) == {"nic"}


def test_windows_say_where_the_race_strikes(simulated: Simulated) -> None:
    assert list(windows(simulated)["verdict"]) == ["close", "strikes", "hidden", "nothing gathered"]


def test_hpz_sizes_are_held_against_zero3(simulated: Simulated) -> None:
    assert list(hpz_sizes(simulated)["speedup_over_zero3"]) == pytest.approx([1.0, 3 / 2.1, 3 / 2.1])


def test_everything_is_written_labelled_and_read_again(simulated: Simulated, tmp_path: Path) -> None:
    files = write(simulated, tmp_path)
    content = json.loads(files["json"].read_text())
    assert content["evidence"] == "simulated-time"
    assert {row["evidence"] for row in content["sync_cost"]} == {"simulated-time"}
    assert {claim["reading"] for claim in content["claims"]} == {"R1", "R2"}
    again = read(tmp_path, "paper")
    assert len(again.cells) == len(simulated.cells)
    assert sync_cost(again)["cost_of_order"].tolist() == pytest.approx(
        sync_cost(simulated)["cost_of_order"].tolist(), nan_ok=True
    )


def test_a_study_without_windows_is_read_again(simulated: Simulated, tmp_path: Path) -> None:
    only = Simulated("s", simulated.table("scaling"), pd.DataFrame([], columns=MARGIN_COLUMNS))
    write(only, tmp_path)
    assert list(read(tmp_path, "s").margins.columns) == list(MARGIN_COLUMNS)
    assert not len(shown_margins(read(tmp_path, "s")))


def test_every_figure_is_drawn_from_its_table_and_labelled(simulated: Simulated) -> None:
    figures = simulated_figures(simulated)
    assert [figure.name for figure in figures] == [
        "simulated_throughput",
        "simulated_order_cost",
        "simulated_windows",
        "simulated_window_parameters",
        "simulated_scaling",
        "simulated_efficiency",
        "simulated_limits",
    ]
    for figure in figures:
        assert figure.evidence == ("simulated-time",)
        assert "simulated time" in figure.title
        assert figure.svg().startswith("<?xml")


def test_a_study_with_one_table_has_its_figures_only(simulated: Simulated) -> None:
    only = Simulated("s", simulated.table("scaling"), simulated.margins)
    names = [figure.name for figure in simulated_figures(only)]
    assert names == ["simulated_scaling", "simulated_efficiency", "simulated_limits"]


def test_chrome_trace_holds_streams_host_and_late_gathers(tmp_path: Path) -> None:
    rows = [op(0, milliseconds=5), gather(2), record(1), wait(1), op(0, milliseconds=1), sync()]
    timeline = simulate(program(rows, (Secondary("weight", 0, 1),)), CONTENDED, repeat=1)
    events = chrome_trace(timeline)["traceEvents"]
    names = {event["args"]["name"] for event in events if event["ph"] == "M" and "name" in event["args"]}
    assert {"host", "compute", "side", "comm"} <= names
    work = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] >= 0 for event in work)
    assert sum(event["cat"] == "kernel" for event in work) == 2
    assert [event["name"] for event in work if event["cat"] == "collective"] == ["all_gather of 16"]
    assert [event["name"] for event in work if event["cat"] == "wait"] == ["waits: a.py:1 f (stream)"]
    assert [e["ph"] for e in events if e.get("cat") == "race"] == ["s", "f"]
    write_chrome_trace(timeline, tmp_path / "step.json.gz")
    assert json.loads(gzip.decompress((tmp_path / "step.json.gz").read_bytes()))["otherData"]["evidence"] == (
        "simulated-time"
    )


def test_a_step_for_which_there_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"nowhere/step\.json: cannot be written \(No such file or directory\)"
    ):
        write_chrome_trace(simulate(program([op()]), CONTENDED), tmp_path / "nowhere" / "step.json")


def test_work_of_one_stream_never_overlaps_in_the_export() -> None:
    rows = [op(0), op(0), gather(2), gather(2), sync(2)]
    events = chrome_trace(simulate(program(rows), CONTENDED))["traceEvents"]
    for thread in (1, 3):
        mine = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["ph"] == "X" and e["tid"] == thread)
        assert all(later[0] >= earlier[1] - 0.01 for earlier, later in pairwise(mine))


def with_corners(simulated: Simulated) -> Simulated:
    """The fix costs 0 % at one corner and 25 % at another; a gather of every window overtakes its copy at the first."""
    run_ids = [f"{run_id}-{number}" for number, run_id in enumerate(simulated.cells["run_id"])]
    simulated = replace(simulated, cells=simulated.cells.assign(run_id=run_ids))
    both = []
    for corner, fixed, overtaken in (("slow kernels", 2.0, 1), ("slow host", 2.5, 0)):
        moved = simulated.cells.assign(
            corner=corner, overtaken=overtaken, margin_min_us=500.0 - 501 * overtaken
        )
        moved.loc[moved["variant"] == "fixed", "step_seconds"] = fixed
        both.append(moved[list(CORNER_COLUMNS)])
    return replace(simulated, corners=pd.concat(both, ignore_index=True))


def test_a_ratio_ranges_over_the_corners_and_is_formed_at_each(simulated: Simulated) -> None:
    row = sync_cost(with_corners(simulated)).set_index("variant").loc["fixed"]
    assert [row[f"cost_of_order{end}"] for end in ("_low", "", "_high")] == pytest.approx([0.0, 0.05, 0.25])
    assert row["speed_kept_low"] == pytest.approx(0.8)


def test_a_reading_that_some_corner_reaches_and_another_does_not_is_left_open(simulated: Simulated) -> None:
    _, kept = ninety_eight(sync_cost(with_corners(simulated)))
    assert (kept["reading"], kept["judgement"]) == ("R2", "left open")


def test_a_race_that_strikes_at_some_corners_may_strike(simulated: Simulated) -> None:
    table = windows(with_corners(simulated))
    assert list(table["verdict"])[:3] == ["may strike", "may strike", "may strike"]
    assert list(table["overtaken_high"])[:3] == [1, 3, 1]


def test_corners_are_written_and_read_again(simulated: Simulated, tmp_path: Path) -> None:
    write(with_corners(simulated), tmp_path)
    assert len(read(tmp_path, "paper").corners) == 2 * len(simulated.cells)
