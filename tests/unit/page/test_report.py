"""The report is one file that answers first, hides nothing that was not run, and escapes what runs are called."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis.collect.results import load_results
from analysis.judge.summary import load_summary
from analysis.page.answers import answers
from analysis.page.report import build_report
from analysis.page.tables import faults, interval, seed_rows, size
from harness.study import Run
from harness.system.errors import HarnessError
from tests.synthetic import STUDY, Curve, as_known, fake_patches, toy_model, write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")


class Reader(HTMLParser):
    """Collects text, links and whatever would reach for the network."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.fetches: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids += [found["id"]] if "id" in found else []
        if tag == "a":
            self.targets.append(found["href"])
        elif tag in ("script", "img", "link", "iframe"):
            self.fetches += [found[key] for key in ("src", "href") if key in found]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up study with its report, only to be read."""
    folder = tmp_path_factory.mktemp("made-up")
    with pytest.MonkeyPatch.context() as patch:
        fake_patches(patch)
        write_study(folder)
        build_report(folder)
    return folder


@pytest.fixture
def made_up(reported: Path) -> Reader:
    return Reader((reported / "report.html").read_text())


def test_the_first_screen_answers(made_up: Reader) -> None:
    assert "Not safe: stock and unordered. Safe in this study: fixed and event." in made_up.text
    assert "+24 host waits per step" in made_up.text


def test_the_page_fetches_nothing(made_up: Reader) -> None:
    assert [source for source in made_up.fetches if not source.startswith(("data:", "#"))] == []


def test_every_link_leads_somewhere(made_up: Reader) -> None:
    assert {target.removeprefix("#") for target in made_up.targets} <= set(made_up.ids)
    assert len(made_up.ids) == len(set(made_up.ids))


def test_every_pair_and_patch_hash_is_there(reported: Path, made_up: Reader) -> None:
    for pair in load_summary(reported)["pairs"]:
        assert pair["run_id"] in made_up.text
        assert all(digest in made_up.text for digest in pair["patch_sha256"].values())


def test_files_lie_beside_the_page(reported: Path) -> None:
    assert {"summary.json", "runs.parquet", "steps.parquet", "figures", "report.html"} <= {
        path.name for path in reported.iterdir()
    }
    assert (reported / "figures" / "loss_toy_2x2-hpz2.svg").is_file()


def test_what_was_not_run_is_listed_and_its_figure_says_so(tmp_path: Path) -> None:
    study = write_study(tmp_path, lambda run: None if run.variant == "event" else as_known(run))
    text = Reader(build_report(tmp_path).read_text()).text
    missing = [run.run_id for run in study.runs if run.variant == "event"]
    assert all(f"{run_id} : not started" in text for run_id in missing)
    assert f"needs run {missing[0]}, which has not finished" in text
    assert "Nothing was run." in text


def test_the_answer_says_where_zero3_fails_too(tmp_path: Path) -> None:
    def curve(run: Run) -> Curve:
        racing = run.variant in ("stock", "zero3") and run.policy == "side-first"
        return Curve([float("nan")] * 12) if racing else as_known(run)

    zero3 = {"model": "toy", "variant": "zero3", "shape": "2x2", "policy": "side-first"}
    write_study(tmp_path, curve, matrix=[STUDY["matrix"][0], zero3])
    text = Reader(build_report(tmp_path).read_text()).text
    assert "Diverged (1) in 1 of 2 pairs, the earliest at step 0, where ZeRO-3 itself fails in all." in text


def test_a_drift_without_a_band_is_called_so(tmp_path: Path) -> None:
    write_study(tmp_path, matrix=STUDY["matrix"][0])
    text = Reader(build_report(tmp_path).read_text()).text
    assert "drifted at 3, no band" in text
    said = "No band for toy: 1 of 3 baseline seeds, so drifted says that its losses are not bit-equal"
    assert said in text and said in (tmp_path / "report.md").read_text()


def test_names_with_markup_are_escaped(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>&\"'"
    matrix = [{**block, "model": name} for block in STUDY["matrix"]]
    write_study(tmp_path, matrix=matrix, models={name: toy_model()}, question="<img src=x onerror=alert(1)>")
    html = build_report(tmp_path).read_text()
    assert "<script>alert" not in html and "<img" not in html
    assert "<script>alert(1)</script>" in Reader(html).text


def test_a_study_without_any_run_is_refused(tmp_path: Path) -> None:
    write_study(tmp_path, lambda run: None)
    with pytest.raises(HarnessError, match="holds neither"):
        build_report(tmp_path)


def test_half_written_lines_are_named_on_the_page(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    with (tmp_path / "runs" / study.runs[0].run_id / "steps.jsonl").open("a") as stream:
        stream.write('{"schema": 1, "st')
    assert (
        f"{study.runs[0].run_id}/steps.jsonl:13: half-written line"
        in Reader(build_report(tmp_path).read_text()).text
    )


def test_the_two_faults_are_told_apart(tmp_path: Path) -> None:
    def curve(run: Run) -> Curve:
        lost = run.variant == "stock" and run.model == "odd"
        return Curve([float("nan")] * 12) if lost else as_known(run)

    matrix = [*STUDY["matrix"], {**STUDY["matrix"][0], "model": "odd"}]
    models = {"toy": toy_model(), "odd": toy_model("llama2-toy-unaligned")}
    write_study(tmp_path, curve, matrix=matrix, models=models)
    build_report(tmp_path)
    copy, race = faults(load_summary(tmp_path))
    assert (copy["shown"], copy["contrast"]) == (
        "diverged (1) of 1 pairs (virtual-device)",
        "exact (1) of 1 pairs (virtual-device)",
    )
    assert (race["shown"], race["contrast"]) == (
        "drifted (1) and diverged (1) of 2 pairs (virtual-device)",
        "exact (2) of 2 pairs (virtual-device)",
    )


def test_a_second_report_says_the_same(tmp_path: Path) -> None:
    write_study(tmp_path)

    def without_time(text: str) -> str:
        return re.sub(r"\d{4}-\d\d-\d\d.\d\d:\d\d", "", text)

    assert without_time(build_report(tmp_path).read_text()) == without_time(
        build_report(tmp_path).read_text()
    )


def test_results_load_as_tidy_frames_with_explained_columns(tmp_path: Path) -> None:
    write_study(tmp_path)
    results = load_results(tmp_path)
    assert set(results.columns.loc[results.columns["table"] == "steps", "column"]) == set(
        results.steps.columns
    )
    assert set(results.columns.loc[results.columns["table"] == "runs", "column"]) == set(results.runs.columns)
    joined = results.joined()
    assert len(joined) == len(results.steps)
    assert joined["variant"].notna().all()


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e13, "30 TB")]
)
def test_bytes_are_readable(value: float | None, text: str) -> None:
    assert size(value) == text


def test_a_time_ratio_shows_its_interval() -> None:
    ratio: dict[str, Any] = {"median": 1.0, "low": 0.9, "high": 1.1, "n": 10}
    assert interval(ratio) == "1 [0.9, 1.1], n=10"
    assert interval({**ratio, "low": None, "high": None, "n": 2}) == "1, n=2"


def test_several_seeds_show_their_final_difference(tmp_path: Path) -> None:
    matrix = [{**STUDY["matrix"][0], "seed": [1, 2, 3], "policy": "side-first"}]
    write_study(tmp_path, matrix=matrix)
    text = Reader(build_report(tmp_path).read_text()).text
    rows = seed_rows(load_summary(tmp_path))
    assert {(row["variant"], row["difference"]) for row in rows} == {
        ("stock", "–"),
        ("unordered", "2 [2, 2], n=3"),
        ("fixed", "0 [0, 0], n=3"),
        ("event", "0 [0, 0], n=3"),
    }
    assert "Final loss, seed by seed" in text


def test_points_without_a_name_stand_behind_the_named_ones(tmp_path: Path) -> None:
    matrix = {"model": "toy", "variant": ["old+event", "fixed"], "shape": "2x2-hpz2", "policy": "side-first"}
    write_study(tmp_path, matrix=matrix)
    text = Reader(build_report(tmp_path).read_text()).text
    assert [answer.variant for answer in answers(load_summary(tmp_path))] == ["fixed", "old+event"]
    assert "Safe in this study: fixed and 1 more point of the ablation." in text


def test_without_deepspeed_the_page_says_where_to_see_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.page.explained.installed_release", lambda: None)
    write_study(tmp_path)
    assert "hpz patch show event" in Reader(build_report(tmp_path).read_text()).text


def test_a_report_needs_neither_torch_nor_deepspeed() -> None:
    check = (
        "import sys, analysis.page.report; print({'torch', 'deepspeed', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.usefixtures("svg_alone")
def test_a_study_of_baselines_alone_has_a_report_without_a_matrix(tmp_path: Path) -> None:
    write_study(tmp_path, matrix=[STUDY["matrix"][1]])
    assert "Nothing was judged yet." in Reader(build_report(tmp_path).read_text()).text
