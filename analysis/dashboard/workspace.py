"""A study's dashboard at wandb as code: a workspace and a report, built offline and saved with one call.

A line is the mean of runs that share all but their seeds, with the seeds' range around it. The table of runs carries
the verdicts that `hpz wandb` told after `hpz report`. A user's own runs appear where their group is the study's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.dashboard.charts import Chart, Part, parts_of
from analysis.dashboard.found import tables_of
from analysis.dashboard.summary_run import JOB_TYPE, TOLD, figures, told
from analysis.page.answers import headline
from analysis.page.text import markdown
from harness.record.metrics import series_of
from harness.study import Study
from harness.system.errors import HarnessError
from harness.system.whole_file import write_json

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

SPECIFICATION = "dashboard.json"
MOST_LINES = 20
WIDE, TALL = 12, 8  # of a panel, of the 24 columns of a report
COLUMNS = (
    "run:displayName",
    "run:state",
    "config:variant.value",
    "config:seed.value",
    "summary:verdict",
    "summary:first_bad_step",
    "summary:max_abs_loss_difference",
    "summary:step_time_ratio",
    "summary:step_time_ratio_low",
    "summary:step_time_ratio_high",
    "summary:steady_tokens_per_second_per_rank",
    "summary:verdict_reason",
)


def check_library() -> None:
    """Raise HarnessError where wandb-workspaces is not installed."""
    if find_spec("wandb_workspaces") is None:
        raise HarnessError(
            "wandb-workspaces is not installed here; pip install 'hpz-lab[dashboards]', then repeat"
        )


def build_workspace(study: Study, entity: str, project: str) -> Workspace:
    """The workspace: a section a question, over the runs of the study's group."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    line = line_key(study)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"hpZ {study.name}",
        sections=[
            ws.Section(name=part.name, panels=_panels(part, line), is_open=number < 3)
            for number, part in enumerate(parts_of(study))
        ],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=MOST_LINES),
        runset_settings=ws.RunsetSettings(
            filters=f"Group = '{study.name}'",
            order=[expr.Ordering(expr.Config("variant"), ascending=True)],
            pinned_columns=list(COLUMNS),
        ),
    )


def build_report(
    study: Study, entity: str, project: str, summary: Mapping[str, Any] | None, pictures: Iterable[str] = ()
) -> Report:
    """The report: the answer, charts for each model, the runs with their verdicts, tables and pictures.

    Without a summary (before `hpz report`) it has charts and runs alone.
    """
    import wandb_workspaces.reports.v2 as wr

    def runs(name: str, filters: str) -> Any:
        return wr.Runset(
            entity=entity,
            project=project,
            name=name,
            filters=f"Group = '{study.name}' and {filters}",
            pinned_columns=list(COLUMNS),
        )

    blocks: list[Any] = [wr.P(study.question)] if study.question else []
    if summary:
        blocks += [wr.H2("Answer"), wr.P(headline(summary)), wr.MarkdownBlock(markdown(summary))]
    line = line_key(study)
    for model in dict.fromkeys(run.model for run in study.runs):
        trained = runs(model, f"JobType != '{JOB_TYPE}' and Config('model') = '{model}'")
        panels = [panel for part in parts_of(study) if not part.own for panel in _panels(part, line)]
        blocks += [wr.H2(model), wr.PanelGrid(runsets=[trained], panels=_laid_out(panels))]
    if summary:
        told = runs("summary", f"JobType = '{JOB_TYPE}'")
        tables = [
            wr.WeavePanelSummaryTable(table_name=f"tables/{table.name}") for table in tables_of(summary)
        ]
        shown = wr.MediaBrowser(title="Figures", media_keys=[f"figures/{name}" for name in pictures])
        blocks += [
            wr.H2("Verdicts, claims and figures"),
            wr.PanelGrid(runsets=[told], panels=_laid_out([*tables, shown], 24)),
        ]
    return wr.Report(
        project=project,
        entity=entity,
        title=f"hpZ {study.name}",
        description=study.question,
        blocks=blocks,
        width="fluid",
    )


def line_key(study: Study) -> str:
    """What the runs of one line share: the variant where it says everything but the seed, else all settings."""
    variants = {run.variant for run in study.runs}
    return "variant" if len({series_of(run) for run in study.runs}) == len(variants) else "series"


def _panels(part: Part, line: str) -> list[Any]:
    return [_panel(chart, None if part.own else line) for chart in part.charts]


def _panel(chart: Chart, line: str | None) -> Any:
    import wandb_workspaces.reports.v2 as wr

    grouped: dict[str, Any] = {}
    if line is not None:
        grouped = {
            "groupby": wr.Config(line),
            "groupby_aggfunc": chart.drawn,
            "groupby_rangefunc": chart.area,
        }
    if chart.x is None:
        return wr.BarPlot(title=chart.title, metrics=[chart.metric], max_bars_to_show=MOST_LINES, **grouped)
    return wr.LinePlot(
        title=chart.title,
        x=chart.x,
        y=[chart.metric],
        log_y=chart.log or None,
        max_runs_to_show=MOST_LINES,
        **grouped,
    )


def _laid_out(panels: list[Any], width: int = WIDE) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    a_row = 24 // width
    for number, panel in enumerate(panels):
        panel.layout = wr.Layout(x=width * (number % a_row), y=TALL * (number // a_row), w=width, h=TALL)
    return panels


def specification(workspace: Workspace, report: Report) -> dict[str, Any]:
    """What is sent to the server, by the library's own models, with numbers in place of its random names."""
    names: dict[str, str] = {}

    def plain(value: Any, key: str = "") -> Any:
        if isinstance(value, Mapping):
            return {name: plain(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [plain(one) for one in value]
        if key in ("id", "__id__") and value:
            return names.setdefault(value, f"hpz{len(names):09d}")
        return value

    models = {"workspace": workspace._to_model(), "report": report._to_model()}
    return {
        name: plain(json.loads(model.model_dump_json(by_alias=True, exclude_none=True)))
        for name, model in models.items()
    }


def write_specification(folder: Path, study: Study, summary: Mapping[str, Any] | None, project: str) -> Path:
    """Write dashboard.json to a results folder: what `save_dashboard` would send, for a person to look at."""
    pictures = [file.stem for file in figures(folder)]
    built = specification(
        build_workspace(study, "", project), build_report(study, "", project, summary, pictures)
    )
    write_json(folder / SPECIFICATION, built)
    return folder / SPECIFICATION


def save_dashboard(
    folder: Path, study: Study, summary: Mapping[str, Any] | None, project: str
) -> tuple[str, str]:
    """Save both at the server, in place of those that were saved before; returns their addresses.

    Needs an account (`harness.record.mirror.check_wandb`). Raises what wandb raises.
    """
    import wandb

    entity = wandb.Api().default_entity
    workspace = build_workspace(study, entity, project)
    report = build_report(study, entity, project, summary, [file.stem for file in figures(folder)])
    before = told(folder)
    workspace._internal_name, workspace._internal_id = before.get("workspace", ("", ""))
    report.id = before.get("report", "")
    workspace.save()
    report.save()
    saved = {"workspace": [workspace._internal_name, workspace._internal_id], "report": report.id}
    write_json(folder / TOLD, told(folder) | saved)
    return workspace.url, report.url
