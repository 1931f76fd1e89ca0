"""Collection keeps every step that was recorded, names what it could not read, and reads no line twice."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.collect.collect import collect, collect_study
from analysis.collect.lines import last_of_each_step, parse_lines
from analysis.collect.steps import join_parts
from analysis.collect.tables import STEP_COLUMNS
from harness.record import StepRecord, StepWriter
from harness.study import Run
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from tests.synthetic import as_known, write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")


def record(step: int, loss: float = 2.0) -> StepRecord:
    return StepRecord(step, loss, 1.0, 1e-3, 256, 0.1, 30, None, 2000, 1000, False)


def lines(*records: StepRecord) -> bytes:
    return "".join(record.line() + "\n" for record in records).encode()


def files_of(folder: Path) -> dict[str, int]:
    """When each file of the tables was written."""
    files = [folder / "runs.parquet", *(folder / "steps.parquet").iterdir()]
    return {file.name: file.stat().st_mtime_ns for file in files}


def steps_file(folder: Path, run_id: str) -> Path:
    return folder / "runs" / run_id / "steps.jsonl"


def test_every_run_and_step_is_there(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    runs, steps = collect(tmp_path)
    assert sorted(runs["run_id"]) == sorted(run.run_id for run in study.runs)
    assert (steps.groupby("run_id", observed=True)["step"].count() == 12).all()
    assert list(steps.columns) == ["run_id", *STEP_COLUMNS]


def test_losses_are_bit_equal_to_what_was_measured(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    run = study.runs[0]
    _, steps = collect(tmp_path)
    assert steps[steps["run_id"] == run.run_id]["loss"].tolist() == list(as_known(run).loss)


@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_any_float_survives_the_way_through_json(losses: list[float]) -> None:
    table, problems = parse_lines(lines(*(record(i, loss) for i, loss in enumerate(losses))), "f")
    read = table["loss"].to_pylist()
    assert not problems
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(read, losses, strict=True))


def test_a_half_written_line_is_named_and_read_once_it_is_whole(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    run_id = study.runs[0].run_id
    whole = lines(record(12))
    with steps_file(tmp_path, run_id).open("ab") as stream:
        stream.write(whole[:40])
    first = collect_study(tmp_path)
    assert [str(p) for p in first.problems] == [f"runs/{run_id}/steps.jsonl:13: half-written line"]
    with steps_file(tmp_path, run_id).open("ab") as stream:
        stream.write(whole[40:])
    second = collect_study(tmp_path)
    assert not second.problems
    assert second.lines_read == 1
    assert len(second.steps().query("run_id == @run_id")) == 13


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"step": 5, "lo\n', "half-written or not JSON"),
        (b'{"epoch": 3}\n', "not a step record"),
        (b"[1, 2]\n", "not a step record"),
        (b'{"schema": 7, "step": 5}\n', "schema 7; this version reads 1"),
        (b'{"schema": 1, "step": "five"}\n', "holds a value of the wrong type"),
        (b"\xff\xfe\n", "half-written or not JSON"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_the_rest_kept(bad: bytes, reason: str) -> None:
    table, problems = parse_lines(lines(record(0)) + bad + lines(record(1)), "steps.jsonl")
    assert table["step"].to_pylist() == [0, 1]
    assert [str(problem) for problem in problems] == [f"steps.jsonl:2: {reason}"]


def test_of_a_step_recorded_twice_the_last_counts(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    run_id = study.runs[0].run_id
    collect_study(tmp_path)
    with steps_file(tmp_path, run_id).open("ab") as stream:
        stream.write(lines(record(11, loss=7.0), record(12, loss=8.0)))
    collected = collect_study(tmp_path)
    steps = collected.steps().query("run_id == @run_id")
    assert steps["step"].tolist() == list(range(13))
    assert steps["loss"].tolist()[-2:] == [7.0, 8.0]
    assert collected.counts()["duplicate_steps"] == 1
    assert collected.runs.set_index("run_id").loc[run_id, "duplicate_steps"] == 1


def test_nothing_is_read_or_written_when_nothing_changed(tmp_path: Path) -> None:
    write_study(tmp_path)
    collect_study(tmp_path)
    before = files_of(tmp_path)
    again = collect_study(tmp_path)
    assert again.lines_read == 0
    assert files_of(tmp_path) == before


def test_new_lines_rewrite_the_part_of_their_run_alone(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    collect_study(tmp_path)
    before = files_of(tmp_path)
    with steps_file(tmp_path, study.runs[0].run_id).open("ab") as stream:
        stream.write(lines(record(12)))
    assert collect_study(tmp_path).lines_read == 1
    changed = {name for name, seen in files_of(tmp_path).items() if before[name] != seen}
    assert len(changed) == 2
    assert "runs.parquet" in changed


def test_a_status_that_changed_is_read_again(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    collect_study(tmp_path)
    changed = study.runs[1].run_id
    status = tmp_path / "runs" / changed / "status.json"
    status.write_text(status.read_text().replace('"done"', '"lost"'))  # of the same length
    runs = collect_study(tmp_path).runs.set_index("run_id")
    assert runs.loc[changed, "state"] == "lost"
    assert (runs.drop(changed)["state"] == "done").all()
    assert runs.index.is_monotonic_increasing


def test_a_run_whose_folder_is_gone_leaves_both_tables(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    collect_study(tmp_path)
    shutil.rmtree(tmp_path / "runs" / study.runs[0].run_id)
    runs, steps = collect(tmp_path)
    assert study.runs[0].run_id not in {*runs["run_id"], *steps["run_id"]}
    assert len(runs) == steps["run_id"].nunique() == len(study.runs) - 1


def test_a_file_that_was_cut_is_read_anew(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    run_id = study.runs[0].run_id
    collect_study(tmp_path)
    file = steps_file(tmp_path, run_id)
    text = file.read_bytes()
    file.write_bytes(text[: text.index(b"\n", len(text) // 2) + 10])
    collected = collect_study(tmp_path)
    assert "half-written line" in str(collected.problems[0])
    assert len(collected.steps().query("run_id == @run_id")) == file.read_bytes().count(b"\n")


def test_a_collection_that_was_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    write_study(tmp_path / "killed")
    shutil.copytree(tmp_path / "killed", tmp_path / "whole")
    code = "import sys; from analysis.collect.collect import collect; collect(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")], cwd=REPOSITORY)
    while process.poll() is None and not any(tmp_path.glob("killed/steps.parquet/part-*")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    for found, expected in zip(collect(tmp_path / "killed"), collect(tmp_path / "whole"), strict=True):
        pd.testing.assert_frame_equal(found, expected)


def test_the_tables_are_read_by_pandas_alone(tmp_path: Path) -> None:
    write_study(tmp_path)
    runs, steps = collect(tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "runs.parquet"), runs)
    read = pd.read_parquet(tmp_path / "steps.parquet").sort_values(["run_id", "step"], ignore_index=True)
    pd.testing.assert_frame_equal(read, steps.astype({"run_id": read["run_id"].dtype}))


def test_a_file_rewritten_by_a_resumed_run_is_read_anew(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    run_id = study.runs[0].run_id
    collect_study(tmp_path)
    writer = StepWriter(steps_file(tmp_path, run_id), from_step=5)
    for step in range(5, 20):
        writer.write(record(step, loss=9.0))
    writer.close()
    steps = collect_study(tmp_path).steps().query("run_id == @run_id")
    assert steps["step"].tolist() == list(range(20))
    assert steps["loss"].tolist()[5:] == [9.0] * 15


def test_incremental_collections_end_where_one_collection_does(tmp_path: Path) -> None:
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    study = write_study(whole)
    write_study(grown, curve=lambda run: None)
    for part in range(1, 4):
        for run in study.runs:
            text = steps_file(whole, run.run_id).read_bytes()
            target = grown / "runs" / run.run_id
            target.mkdir(parents=True, exist_ok=True)
            (target / "run.json").write_bytes((whole / "runs" / run.run_id / "run.json").read_bytes())
            (target / "steps.jsonl").write_bytes(text[: len(text) * part // 3])
        collect_study(grown)
    pd.testing.assert_frame_equal(collect(grown)[1], collect(whole)[1])


def test_a_clock_that_goes_back_is_noted_and_nothing_lost() -> None:
    rows = [json.loads(line) for line in lines(record(0), record(1)).splitlines()]
    rows[1]["utc"] = "2001-01-01T00:00:00.000Z"
    table, problems = parse_lines("".join(json.dumps(row) + "\n" for row in rows).encode(), "f")
    assert table.num_rows == 2
    assert [str(problem) for problem in problems] == ["f: note: the clock went back 1 times, first at step 1"]


def test_a_run_without_its_record_is_named_and_left_out(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    (tmp_path / "runs" / study.runs[0].run_id / "run.json").write_text("{")
    collected = collect_study(tmp_path)
    assert len(collected.runs) == len(study.runs) - 1
    assert f"runs/{study.runs[0].run_id}/run.json: not a run record" in str(collected.problems[0])


def test_a_run_that_has_not_begun_has_no_steps(tmp_path: Path) -> None:
    def none_yet(run: Run) -> None:
        return None

    study = write_study(tmp_path, curve=none_yet)
    from harness.record import RunDirectory

    RunDirectory(tmp_path / "runs" / study.runs[0].run_id).create(study.runs[0])
    collected = collect_study(tmp_path)
    assert collected.runs["state"].tolist() == ["pending"]
    assert collected.steps().empty


def test_tables_alone_are_enough(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    runs, steps = collect(tmp_path / "study")
    for kept in ("parts", "joined"):
        (tmp_path / kept).mkdir()
        shutil.copy(tmp_path / "study" / "runs.parquet", tmp_path / kept)
    shutil.copytree(tmp_path / "study" / "steps.parquet", tmp_path / "parts" / "steps.parquet")
    join_parts(tmp_path / "study" / "steps.parquet", tmp_path / "joined" / "steps.parquet")
    for kept in ("parts", "joined"):
        again = collect(tmp_path / kept)
        pd.testing.assert_frame_equal(again[0], runs)
        pd.testing.assert_frame_equal(again[1], steps)


def test_tables_of_an_older_version_are_read_anew_or_filled_up(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    _, steps = collect(tmp_path / "study")
    old = pq.read_table(tmp_path / "study" / "steps.parquet").drop_columns(["wire_bytes"])
    (tmp_path / "compact").mkdir()
    shutil.rmtree(tmp_path / "study" / "steps.parquet")
    for folder in ("study", "compact"):
        pq.write_table(old, tmp_path / folder / "steps.parquet")
    (tmp_path / "compact" / "runs.parquet").write_bytes((tmp_path / "study" / "runs.parquet").read_bytes())
    pd.testing.assert_frame_equal(collect(tmp_path / "compact")[1], steps)
    assert collect_study(tmp_path / "study").lines_read == len(steps)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="holds neither runs/ nor collected tables"):
        collect_study(tmp_path)


def test_columns_say_what_they_are(tmp_path: Path) -> None:
    write_study(tmp_path)
    collect_study(tmp_path)
    schema = pq.read_schema(next((tmp_path / "steps.parquet").iterdir()))
    assert schema.field("bytes_inter").metadata[b"is"] == b"bytes that one node sends to other nodes"


@given(st.lists(st.integers(0, 9), max_size=30))
def test_steps_are_unique_ordered_and_the_last_of_their_kind(order: list[int]) -> None:
    table, _ = parse_lines(lines(*(record(step, loss=i) for i, step in enumerate(order))), "f")
    kept, dropped = last_of_each_step(table)
    last = {step: float(i) for i, step in enumerate(order)}
    assert dict(zip(kept["step"].to_pylist(), kept["loss"].to_pylist(), strict=True)) == last
    assert kept["step"].to_pylist() == sorted(last)
    assert dropped == len(order) - len(last)
