"""A study's dashboard on this machine, without an account or a network: trackio's server over what the runs recorded.

The database is made anew in the results folder each time, and goes on while runs train.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from analysis.collect.collect import collect_study
from analysis.collect.tables import STEP_COLUMNS
from analysis.dashboard.charts import parts_of
from analysis.dashboard.found import found_of_runs, tables_of, words_of
from analysis.dashboard.summary_run import JOB_TYPE, figures
from analysis.draw.style import line_of
from analysis.judge.axes import axis_words, further_axes
from harness.record.metrics import Told, told_steps
from harness.study import Run, Study, load_study
from harness.system.errors import HarnessError
from harness.system.utc import utc_of

FOLDER = "trackio"  # in the results folder


class Dashboard:
    """The database of one study's dashboard; `update` tells it of steps that are new."""

    def __init__(self, folder: Path, summary: Mapping[str, Any] | None) -> None:
        """Make the database anew. Raises HarnessError where trackio is missing or the folder holds no runs."""
        if find_spec("trackio") is None:
            raise HarnessError(
                "trackio is not installed here; pip install 'hpz-lab[dashboards]', then repeat"
            )
        self.folder, self.study, self.summary = folder, load_study(folder), summary
        self.found = found_of_runs(summary) if summary else {}
        self.names = _names(self.study)
        self.told: dict[str, int] = {}  # the last step of each run, and how many rows it had
        self.rows: dict[str, int] = {}
        self.begun: dict[str, float] = {}  # when each run recorded its first step
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        os.environ |= {
            "TRACKIO_DIR": str((folder / FOLDER).absolute()),
            "TRACKIO_PLOT_ORDER": ",".join(self.names.values()),
        }
        if summary:
            self._tell_report()
        self.update()

    def update(self) -> int:
        """Tell the steps that were not told yet; returns how many."""
        collected = collect_study(self.folder)
        if self.told and not collected.lines_read:
            return 0
        rows: Any = collected.runs.to_dict("records")
        runs = {row["run_id"]: row for row in rows}
        count = 0
        for run_id, table in collected.by_run(STEP_COLUMNS):
            if table.num_rows == self.rows.get(run_id):
                continue
            self.rows[run_id], lines = table.num_rows, _lines(table)
            run = Run.model_validate(json.loads(runs[run_id]["record"])["run"])
            new = list(told_steps(lines, run, self.told.get(run_id, -1)))
            if new:
                self._tell(run_id, run, new, runs[run_id])
            count += len(new)
        self._colour()
        return count

    def _tell(self, run_id: str, run: Run, steps: list[Told], row: Mapping[str, Any]) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        found = self.found.get(run_id, {})
        values = [self._named(told.values) for told in steps]
        if run_id not in self.told:
            # One point a run makes a bar.
            values[0] |= self._named(found)
            self.begun[run_id] = steps[0].when or 0.0
        SQLiteStorage.bulk_log(
            project=self.study.name,
            run=_short_name(self.study, run, run_id),
            run_id=run_id,
            metrics_list=values,
            steps=[told.step for told in steps],
            timestamps=[utc_of(told.when or 0.0) for told in steps],
            config={
                "_Group": run.variant,
                **{name: getattr(run, name) for name in ("variant", "model", "seed", "release")},
                "shape": str(run.shape),
                "policy": run.schedule,
                "evidence": run.evidence,
                **further_axes(self.study, run),
                "state": row["state"],
                "verdict": found.get("verdict", "no pair" if self.summary else "not reported"),
                "first_bad_step": found.get("first_bad_step"),
            },
        )
        self.told[run_id] = steps[-1].step

    def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What has a chart, or is an axis of one, under its part."""
        return {self.names[name]: value for name, value in values.items() if name in self.names}

    def _tell_report(self) -> None:
        """The report's text, tables and pictures, as a run of its own."""
        import trackio

        assert self.summary is not None
        shown: dict[str, Any] = {"report": trackio.Markdown(words_of(self.summary))}
        for table in tables_of(self.summary):
            shown[f"tables/{table.name}"] = trackio.Table(
                columns=list(table.columns), data=[list(r) for r in table.rows]
            )
        shown |= {f"figures/{file.stem}": trackio.Image(str(file)) for file in figures(self.folder)}
        with redirect_stdout(io.StringIO()):
            run = trackio.init(
                project=self.study.name, name=JOB_TYPE, embed=False, auto_log_gpu=False, auto_log_cpu=False
            )
            run.log(shown, step=0)
            trackio.finish()

    def _colour(self) -> None:
        """Give each run the colour of its variant: trackio hands its palette out to the newest run first."""
        newest_first = sorted(self.begun, key=lambda run_id: self.begun[run_id], reverse=True)
        variants = {run.run_id: run.variant for run in self.study.runs}
        colours = [line_of(variants.get(run_id, "")).colour for run_id in newest_first]
        report = [line_of("").colour] if self.summary else []
        os.environ["TRACKIO_COLOR_PALETTE"] = ",".join([*report, *colours])


@contextmanager
def served(dashboard: Dashboard, port: int | None) -> Iterator[str]:
    """Inside, the dashboard is served on this machine's loopback; gives its address.

    Raises HarnessError where the port is taken.
    """
    import trackio

    try:
        with redirect_stdout(io.StringIO()):
            server, local, _, _ = trackio.show(
                project=dashboard.study.name,
                open_browser=False,
                block_thread=False,
                share=False,
                server_port=port,
            )
    except OSError as error:
        raise HarnessError(f"--port {port}: cannot be used ({error}); name another one") from error
    try:
        yield f"{local.rstrip('/')}/?{urlencode({'project': dashboard.study.name, 'smoothing': 0})}"
    finally:
        server.close()


def _names(study: Study) -> dict[str, str]:
    """The name under which each metric is charted: its part and its own; axes come last."""
    charts = [(part.key, chart) for part in parts_of(study) if not part.own for chart in part.charts]
    axes = {chart.x: f"axes/{chart.x}" for _, chart in charts if chart.x not in (None, "step")}
    names: dict[str, str] = {}
    for key, chart in charts:
        names.setdefault(chart.metric, f"{key}/{chart.metric}")  # under the first part that shows it
    return names | axes


def _short_name(study: Study, run: Run, run_id: str) -> str:
    """A run's name with what is compared first, for lists that cut it; its last word is the hash that ends its id."""
    order = [run.schedule] if run.device == "virtual" else []
    swept = axis_words(further_axes(study, run)).values()
    words = [
        run.variant,
        *order,
        *swept,
        run.model,
        str(run.shape),
        f"s{run.seed}",
        run_id.rsplit("_", 1)[-1],
    ]
    return " ".join(words)


def _lines(table: Any) -> list[dict[str, Any]]:
    """A run's steps as lines, without what was not measured."""
    return [{key: value for key, value in line.items() if value is not None} for line in table.to_pylist()]
