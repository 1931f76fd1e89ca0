"""A study's summary run at wandb: verdicts, claims, tables, figures and the report, told once a report.

Beside the runs of its group it is the one of job type `summary`. Its artifact is the report as files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.dashboard.found import counts_of, tables_of
from analysis.judge.summary import load_summary
from analysis.page.answers import headline
from harness.record.metrics import flat
from harness.record.mirror import sole_pusher
from harness.record.session import Mode, digest, open_run
from harness.system.whole_file import write_json

JOB_TYPE = "summary"
FILES = ("report.html", "report.md", "summary.json", "verdicts.tex", "simulated.tex")
LOCK_SECONDS = 60.0  # that a push waits for another one
TOLD = "wandb.json"  # in the results folder: what was told last, by mode


def summary_run_id(study: str) -> str:
    """The summary run's id at wandb."""
    return f"{study}-summary"


def push_summary(folder: Path, mode: Mode) -> bool:
    """Tell wandb what `hpz report` wrote to `folder`; False where it was told before.

    Raises HarnessError where there is no summary.json, and what wandb raises.
    """
    summary = load_summary(folder)
    stamp = digest({key: value for key, value in summary.items() if key != "generated_utc"})
    with sole_pusher(folder, LOCK_SECONDS):
        before = told(folder)
        if before.get(mode) == stamp:
            return False
        with _staged_in(folder / "wandb", mode):
            _push(folder, summary, mode)
        write_json(folder / TOLD, before | {mode: stamp})
    return True


def _push(folder: Path, summary: Mapping[str, Any], mode: Mode) -> None:
    import wandb

    name = summary["study"]
    run = open_run(
        folder,
        mode,
        run_id=summary_run_id(name),
        group=name,
        job_type=JOB_TYPE,
        tags=[JOB_TYPE, *sorted({pair["evidence"] for pair in summary["pairs"]})],
        config=flat(
            {"study": name, **{key: summary[key] for key in ("question", "rule", "trained_with", "versions")}}
        ),
    )
    shown: dict[str, Any] = {
        f"tables/{table.name}": wandb.Table(
            columns=list(table.columns), data=[list(row) for row in table.rows], allow_mixed_types=True
        )
        for table in tables_of(summary)
    }
    shown |= {f"figures/{file.stem}": wandb.Image(str(file)) for file in figures(folder)}
    if (page := folder / "report.html").exists():
        shown["report"] = wandb.Html(page.read_text(), inject=False)
    run.log(shown)
    run.summary.update({"headline": headline(summary), **counts_of(summary)})
    artifact = wandb.Artifact(f"{name}-report", "report", description=headline(summary))
    for file in [folder / one for one in FILES] + sorted((folder / "figures").glob("*")):
        if file.exists():
            artifact.add_file(str(file), str(file.relative_to(folder)))
    run.log_artifact(artifact)
    run.finish()


def figures(folder: Path) -> list[Path]:
    """The pictures that a report drew."""
    return sorted((folder / "figures").glob("*.png"))


@contextmanager
def _staged_in(place: Path, mode: Mode) -> Iterator[None]:
    """Let wandb keep an offline artifact's files beside the store, where they stay until it is synced."""
    data = place / "data"
    if mode == "offline":
        shutil.rmtree(data, ignore_errors=True)
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = str(data.absolute())
    try:
        yield
    finally:
        os.environ.pop("WANDB_DATA_DIR")
        if before is not None:
            os.environ["WANDB_DATA_DIR"] = before


def told(folder: Path) -> dict[str, Any]:
    """What wandb was told of the study, by mode, and the names of its dashboard there."""
    try:
        return dict(json.loads((folder / TOLD).read_text()))
    except (OSError, ValueError):
        return {}
