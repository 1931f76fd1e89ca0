"""Reference results: what a report needs and nothing else, small enough to commit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from analysis.collect import steps
from analysis.collect.collect import collect_study
from analysis.draw.simulated_windows import shown_margins
from analysis.judge.clock_tables import FOLDER
from analysis.judge.race_matrix import load_matrix
from analysis.page.simulated import STEP
from harness.race.matrix import Fault
from harness.simulate.tables import read
from harness.simulate.validate import TABLES
from harness.study import load_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.system.whole_file import write_json

REFERENCE = REPOSITORY / "results" / "reference"
COPIED = ("study.yaml", "runs.parquet")


def keep(folder: str | Path, target: Path | None = None, *, unfinished: bool = False) -> Path:
    """Copy what a finished study's report needs to `target` (default: results/reference/<study>).

    That is study, tables, races with pictures and replays, what witnesses found and the machine's calibration.
    The tables hold run.json, status.json and every step, so the report and its figures can be built again from them.
    Of simulated time it keeps what figures and tables are made of.
    Raises HarnessError while a run of the study is unfinished, unless that is allowed (one that was analysed for races
    alone is not), and for runs of a changed working tree, whose code nobody could find again.
    """
    folder = Path(folder)
    collected = collect_study(folder)
    study = load_study(folder)
    runs = collected.runs
    analysed = (runs["state"] == "pending") & runs["races"].notna()
    open_runs = runs.loc[(runs["state"] != "done") & ~analysed, "run_id"].tolist()
    if open_runs and not unfinished:
        raise HarnessError(
            f"{folder}: {len(open_runs)} runs are not done, the first is {open_runs[0]}; finish the study first, "
            "or keep-unfinished"
        )
    dirty = [run_id for run_id, text in zip(runs["run_id"], runs["record"], strict=True) if _dirty(text)]
    if dirty:
        raise HarnessError(
            f"{folder}: {len(dirty)} runs were made with uncommitted changes, the first is {dirty[0]}; commit them, "
            "remove the runs and run the study again"
        )
    target = target or REFERENCE / study.name
    target.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(folder / name, target / name)
    steps.join_parts(folder / steps.NAME, target / steps.NAME)
    for pattern, part in (
        ("race-*.svg", "races"),
        ("replay-*.json", "races"),
        ("witness-*.json", "witness"),
        ("profile-*.json.gz", "witness"),
        ("ranks.jsonl", "ranks"),
    ):
        for found in folder.glob(f"runs/*/{pattern}"):
            place = target / part / found.parent.name
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, place / found.name)
    if (folder / "calibration.json").is_file():
        shutil.copyfile(folder / "calibration.json", target / "calibration.json")
    if (matrix := load_matrix(folder)) is not None:
        faults = tuple(moved(fault, target) for fault in matrix.faults)
        write_json(
            target / "races.json", matrix.model_copy(update={"faults": faults}).model_dump(mode="json")
        )
    if (folder / FOLDER).is_dir():
        _keep_simulated(folder / FOLDER, target / FOLDER, study.name)
    return target


def moved(fault: Fault, target: Path) -> Fault:
    """The fault with the paths of what `target` keeps of it."""
    shown = target.relative_to(REPOSITORY) if target.is_relative_to(REPOSITORY) else target
    effect = fault.effect
    if effect.replay is not None:
        replay = shown / "races" / fault.run_id / Path(effect.replay).name
        effect = effect.model_copy(update={"replay": str(replay)})
    return fault.model_copy(update={"report": str(shown / "runs.parquet"), "effect": effect})


def _dirty(record: str) -> bool:
    return bool((json.loads(record).get("git") or {}).get("dirty"))


def _keep_simulated(source: Path, target: Path, study: str) -> None:
    """Cells, the validation, one step, and the margins that are drawn; the other tables follow from the cells."""
    target.mkdir(exist_ok=True)
    kept = (
        "cells.csv",
        "corners.csv",
        "validation.json",
        *(f"validation_{name}.csv" for name in TABLES),
        STEP,
    )
    for name in kept:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    shown_margins(read(source, study)).drop(columns="case").to_csv(target / "margins.csv", index=False)
