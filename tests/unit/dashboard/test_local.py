"""The local dashboard's database, as trackio reads it; tests/browser looks at its pages."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.record import RunDirectory

# trackio takes its folder from the environment when it is imported, so each database has a process of its own.
READ = """
import json, sys
from pathlib import Path
from analysis.dashboard.local import Dashboard
from analysis.judge.summary import load_summary
folder = Path(sys.argv[1])
shown = Dashboard(folder, load_summary(folder) if (folder / "summary.json").exists() else None)
{between}
from trackio.sqlite_storage import SQLiteStorage
runs = {{run_id: SQLiteStorage.get_logs("made-up", run_id, run_id=run_id) for run_id in shown.told}}
configs = SQLiteStorage.get_all_run_configs("made-up")
print(json.dumps([runs, configs, SQLiteStorage.get_runs("made-up")]))
"""


def database(
    folder: Path, between: str = ""
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any], list[str]]:
    """The steps of each run by id, the settings of each run by name, and the runs' names."""
    done = subprocess.run(
        [sys.executable, "-c", READ.format(between=between), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs, configs, names = json.loads(done.stdout)
    return runs, configs, names


def test_every_step_is_there_once_under_the_charts_names(results: Path) -> None:
    runs, configs, names = database(results)
    folders = {folder.name for folder in (results / "runs").iterdir()}
    assert set(runs) == folders and len(names) == len(folders) + 1  # and the report's own
    for run_id, rows in runs.items():
        lines = [
            json.loads(line) for line in (results / "runs" / run_id / "steps.jsonl").read_text().splitlines()
        ]
        assert [row["step"] for row in rows] == [line["step"] for line in lines] == list(range(12))
        told = [math.nan if line["loss"] is None else line["loss"] for line in lines]
        assert [row["training/loss"] for row in rows] == pytest.approx(told, nan_ok=True)
    assert {config["verdict"] for config in configs.values() if "verdict" in config} == {
        "baseline",
        "no pair",
        "exact",
        "drifted",
        "diverged",
    }


def test_what_is_trained_while_it_is_open_is_added(results: Path) -> None:
    (results / "summary.json").unlink()
    directory = RunDirectory(next(iter((results / "runs").iterdir())))
    late = directory.steps_file.read_text().splitlines(keepends=True)
    directory.steps_file.write_text("".join(late[:5]))
    more = f"""
before = shown.told[{directory.path.name!r}]
Path({str(directory.steps_file)!r}).open("a").write({"".join(late[5:])!r})
assert (before, shown.update(), shown.update()) == (4, 7, 0)
"""
    runs, _, names = database(results, more)
    assert [row["step"] for row in runs[directory.path.name]] == list(range(12))
    assert "summary" not in names
