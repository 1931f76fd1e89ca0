"""The study's summary run in its real offline store, as wandb's own reader shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from analysis.dashboard.summary_run import push_summary
from analysis.judge.summary import load_summary
from harness.system.errors import HarnessError
from tests.wandb_store import of, stored, stores, summary


@pytest.fixture(scope="module")
def pushed(reported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study with its summary run pushed, only to be read."""
    folder = Path(shutil.copytree(reported, tmp_path_factory.mktemp("pushed") / "results"))
    assert push_summary(folder, "offline")
    return folder


def test_what_was_found_is_attached_to_the_studys_summary_run(pushed: Path) -> None:
    records = stored(pushed)
    (run,) = of("run", records)
    assert (run["run_id"], run["run_group"], run["job_type"]) == ("made-up-summary", "made-up", "summary")
    shown = summary(records)
    assert shown["headline"].startswith("Not safe: stock and unordered.")
    assert shown["pairs.diverged"] == 1 and shown["pairs.exact"] == 6
    assert shown["tables/verdicts._type"] == shown["tables/claims._type"] == "table-file"
    assert shown["figures/verdicts._type"] == "image-file" and shown["report._type"] == "html-file"


def test_the_tables_hold_the_verdicts(pushed: Path) -> None:
    path = summary(stored(pushed))["tables/verdicts.path"]
    (file,) = pushed.glob(f"wandb/offline-run-*/files/{path}")
    table = json.loads(file.read_text())
    verdicts = [row[table["columns"].index("verdict")] for row in table["data"]]
    assert verdicts == [pair["verdict"] for pair in load_summary(pushed)["pairs"]]


def test_the_report_is_an_artifact_whose_files_wait_beside_the_store(pushed: Path) -> None:
    (artifact,) = (one for one in of("artifact", stored(pushed)) if one["type"] == "report")
    paths = {entry["path"]: Path(entry["local_path"]) for entry in artifact["manifest"]["contents"]}
    assert {"report.html", "summary.json", "report.md", "figures/verdicts.svg"} <= set(paths)
    assert paths["summary.json"].is_relative_to(pushed / "wandb")
    assert paths["summary.json"].read_bytes() == (pushed / "summary.json").read_bytes()


def test_it_is_told_once_a_report(results: Path) -> None:
    push_summary(results, "offline")
    (before,) = stores(results)
    assert not push_summary(results, "offline") and stores(results) == [before]
    content = load_summary(results)
    (results / "summary.json").write_text(json.dumps(content | {"generated_utc": "later"}))
    assert not push_summary(results, "offline")
    (results / "summary.json").write_text(json.dumps(content | {"question": "Another one?"}))
    assert push_summary(results, "offline")
    (after,) = stores(results)
    assert after != before


def test_a_study_without_a_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="hpz report"):
        push_summary(tmp_path, "offline")
