"""wandb's dashboard as code: a golden file, read back by the library's own models.

After a meant change: UPDATE_GOLDEN=1 pytest tests/unit/dashboard/test_workspace.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from analysis.dashboard.workspace import SPECIFICATION, line_key, write_specification
from analysis.judge.summary import load_summary
from harness.record.metrics import told_steps
from harness.study import load_study
from harness.system.places import REPOSITORY
from tests.conftest import StudyFile
from tests.unit.record.test_record import STEP

GOLDEN = REPOSITORY / "tests" / "golden" / "slow-link.dashboard.json"


def test_the_specification_is_as_recorded(tmp_path: Path) -> None:
    study = load_study(REPOSITORY / "experiments" / "slow-link.yaml")
    text = write_specification(tmp_path, study, None, "hpz-lab").read_text()
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_the_librarys_models_read_the_golden_file_and_write_it_again() -> None:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.reports.v2.internal import ReportViewspec
    from wandb_workspaces.workspaces import Workspace
    from wandb_workspaces.workspaces.internal import View

    golden = json.loads(GOLDEN.read_text())
    for name, model, made in (("workspace", View, Workspace), ("report", ReportViewspec, Report)):
        read = made._from_model(model.model_validate(golden[name]))._to_model()
        assert _panels_of(read.model_dump(by_alias=True)) == _panels_of(golden[name])


def _panels_of(value: Any) -> list[dict[str, Any]]:
    """Every panel of a specification, without what is not set."""
    if isinstance(value, dict):
        if "viewType" in value:
            config = {key: one for key, one in value["config"].items() if one is not None}
            return [{"type": value["viewType"], **config}]
        return [panel for one in value.values() for panel in _panels_of(one)]
    return [panel for one in value for panel in _panels_of(one)] if isinstance(value, list) else []


def test_the_workspace_shows_what_a_study_is_asked_for() -> None:
    from wandb_workspaces.workspaces import Workspace
    from wandb_workspaces.workspaces.internal import View

    workspace = Workspace._from_model(View.model_validate(json.loads(GOLDEN.read_text())["workspace"]))
    panels = {panel.title: panel for section in workspace.sections for panel in section.panels}
    loss = panels["Loss (nats a token): mean and range of seeds"]
    assert (loss.groupby_aggfunc, loss.groupby_rangefunc, loss.log_y) == ("mean", "minmax", None)
    assert panels["Gradient norm before clipping"].log_y
    assert panels["Tokens/s a rank: mean and standard error"].groupby_rangefunc == "stderr"
    assert {"First bad step", "Host waits a step, a rank"} <= set(panels)
    assert {"summary:verdict", "summary:first_bad_step"} <= set(workspace.runset_settings.pinned_columns)
    assert workspace.runset_settings.filters == "Metric(\"Group\") == 'slow-link'"


def test_every_charted_metric_is_one_that_runs_tell(study_file: StudyFile) -> None:
    run, *_ = load_study(study_file()).runs
    measured = (
        "validation_loss",
        "host_blocked_seconds",
        "forward_seconds",
        "backward_seconds",
        "optimizer_seconds",
    )
    line: dict[str, Any] = {**vars(STEP), "host_syncs": 1, **dict.fromkeys(measured, 1.0)}
    (told,) = told_steps([line | {"step": 0, "utc": None}], run)
    golden = json.loads(GOLDEN.read_text())["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    lines = [panel["config"] for part in golden for panel in part["panels"] if "Line" in panel["viewType"]]
    assert {metric for config in lines for metric in config["metrics"]} <= set(told.values)
    assert {config["xAxis"] for config in lines} <= {*told.values, "_step"}


def test_the_report_answers_first_and_shows_tables_and_figures(reported: Path, tmp_path: Path) -> None:
    from wandb_workspaces.reports.v2.internal import ReportViewspec

    (tmp_path / "figures").symlink_to(reported / "figures")
    write_specification(tmp_path, load_study(reported), load_summary(reported), "hpz-lab")
    content = json.loads((tmp_path / SPECIFICATION).read_text())["report"]
    ReportViewspec.model_validate(content)
    text = json.dumps(content)
    assert text.index("Not safe: stock and unordered.") < text.index("Run History Line Plot")
    assert "tables/verdicts" in text and "figures/verdicts" in text
    assert "Tokens/s" not in text  # seconds of the virtual device mean nothing


@pytest.mark.parametrize(
    ("axes", "key"), [({"seed": [1, 2]}, "variant"), ({"gradient_accumulation": [1, 2]}, "series")]
)
def test_a_line_is_a_variant_or_all_settings_but_the_seed(
    axes: dict[str, Any], key: str, study_file: StudyFile
) -> None:
    study = load_study(
        study_file(matrix={"model": "llama2-toy", "variant": "fixed", "shape": "2x2-hpz2", **axes})
    )
    assert line_key(study) == key
