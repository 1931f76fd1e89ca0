"""Figures come from their tables, name their runs, are the same bytes every time, and leave no gap unseen."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.collect.collect import collect_study
from analysis.draw.figure import Figure, inline
from analysis.draw.losses import draw_loss, loss_figures
from analysis.draw.verdicts import matrix_figure
from analysis.judge.pair_records import Bands
from analysis.judge.pairs import match
from analysis.judge.summary import summarise_folder, summarise_matched
from analysis.reference.keep import keep
from harness.study import Run, load_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from tests.synthetic import Curve, as_known, write_run, write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")


def figures_of(folder: Path) -> list[Figure]:
    collected = collect_study(folder)
    matched = match(load_study(folder), collected)
    summary = summarise_matched(matched, collected)
    return [make() for make in loss_figures(matched, summary, Bands(matched))] + [matrix_figure(summary)]


def without_event(run: Run) -> Curve | None:
    return None if run.variant == "event" else as_known(run)


def test_each_figure_has_its_files_and_table(tmp_path: Path) -> None:
    write_study(tmp_path)
    loss, _ = figures_of(tmp_path)
    files = loss.write(tmp_path / "figures")
    assert [file.name for file in files] == [
        f"loss_toy_2x2-hpz2.{kind}" for kind in ("csv", "svg", "png", "pdf")
    ]
    table = pd.read_csv(files[0])
    assert set(table["variant"]) == {"zero3", "stock", "unordered", "fixed", "event"}
    assert set(table["panel"]) == {"eager", "side-first"}


def test_a_figure_names_its_runs_and_evidence(tmp_path: Path) -> None:
    write_study(tmp_path)
    for figure in figures_of(tmp_path):
        assert "virtual-device" in figure.caption
        assert all(run_id in figure.svg() for run_id in figure.run_ids)


def test_a_picture_that_is_passed_around_still_says_its_evidence(tmp_path: Path) -> None:
    write_study(tmp_path)
    loss, matrix = figures_of(tmp_path)
    assert "evidence: virtual-device · 9 runs · loss_toy_2x2-hpz2.csv</text>" in loss.svg()
    assert "evidence: virtual-device · 8 runs · verdicts.csv</text>" in matrix.svg()


def test_the_svg_is_the_same_every_time(tmp_path: Path) -> None:
    write_study(tmp_path)
    for figure in figures_of(tmp_path):
        assert figure.svg() == figure.svg()
        assert "<dc:date>" not in figure.svg()


def test_a_figure_can_be_drawn_from_its_csv_alone(tmp_path: Path) -> None:
    write_study(tmp_path)
    loss = figures_of(tmp_path)[0]
    loss.write(tmp_path, formats=())
    table = pd.read_csv(tmp_path / f"{loss.name}.csv", dtype={"first_bad_step": "Int64"})
    again = Figure(loss.name, loss.title, table, loss.run_ids, loss.evidence, draw_loss)
    assert again.svg() == loss.svg()


def test_a_missing_run_raises_instead_of_leaving_a_gap(tmp_path: Path) -> None:
    write_study(tmp_path, without_event)
    with pytest.raises(HarnessError, match=r"needs run toy_event_.*not started"):
        figures_of(tmp_path)


def test_the_matrix_needs_every_verdict(tmp_path: Path) -> None:
    write_study(tmp_path, without_event)
    collected = collect_study(tmp_path)
    summary = summarise_matched(match(load_study(tmp_path), collected), collected)
    with pytest.raises(HarnessError, match="figure verdicts needs run"):
        matrix_figure(summary)


def test_the_matrix_needs_a_pair() -> None:
    with pytest.raises(HarnessError, match="figure verdicts needs a pair, and every run of this study is a"):
        matrix_figure({"pairs": []})


def test_all_nan_runs_can_still_be_drawn(tmp_path: Path) -> None:
    write_study(tmp_path, lambda run: as_known(run) if run.variant != "stock" else Curve([float("nan")] * 12))
    assert "<svg" in figures_of(tmp_path)[0].svg()


def test_a_far_drift_gets_a_logarithmic_axis(tmp_path: Path) -> None:
    def curve(run: Run) -> Curve:
        return as_known(run) if run.variant != "unordered" else Curve([5.0 + 400.0 * i for i in range(12)])

    write_study(tmp_path, curve)
    assert draw_loss(figures_of(tmp_path)[0].table).axes[0].get_yscale() == "log"


def test_a_near_drift_keeps_the_linear_axis(tmp_path: Path) -> None:
    write_study(tmp_path)
    assert draw_loss(figures_of(tmp_path)[0].table).axes[0].get_yscale() == "linear"


def test_ids_of_two_inlined_figures_do_not_meet() -> None:
    svg = '<?xml?><svg viewBox="0 0 1 1"><g id="a"/><use href="#a"/></svg>'
    first, second = inline(svg, "one <b>"), inline(svg, "two")
    assert 'aria-label="one &lt;b>"' in first
    assert first.split('id="')[1].split('"')[0] != second.split('id="')[1].split('"')[0]
    assert first.split('id="')[1].split('"')[0] == first.split('href="#')[1].split('"')[0]


def test_figures_are_rebuilt_from_tables_alone_byte_for_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "study")
    assert main(["figures", str(tmp_path / "study")]) == 0
    keep(tmp_path / "study", tmp_path / "compact")
    assert main(["figures", str(tmp_path / "compact")]) == 0
    assert "5 figures of 1 studies" in capsys.readouterr().out
    for file in sorted((tmp_path / "study" / "figures").glob("*.[sc][vs][gv]")):
        assert file.read_bytes() == (tmp_path / "compact" / "figures" / file.name).read_bytes()


def test_rebuilding_fails_where_a_figure_lacks_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, without_event)
    assert main(["figures", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "hpz: figure loss_toy_2x2-hpz2 needs run toy_event_" in said.err
    assert "3 figures of 1 studies" in said.out


def test_a_study_of_baselines_alone_lacks_no_figure(tmp_path: Path) -> None:
    alone = {"model": "toy", "variant": "zero3", "shape": "2x2"}
    write_study(tmp_path, baseline={"variant": "zero3"}, matrix=alone)
    assert main(["figures", str(tmp_path)]) == 0


def test_a_committed_figure_equals_its_rebuild() -> None:
    folder = REPOSITORY / "results" / "reference" / "slow-link"
    for figure in figures_of(folder):
        assert figure.svg() == (folder / "figures" / f"{figure.name}.svg").read_text()


def test_columns_of_the_matrix_and_titles_of_curves_tell_settings_apart(tmp_path: Path) -> None:
    matrix = {
        "model": "toy",
        "variant": "fixed",
        "shape": "2x2-hpz2",
        "link": ["50mbit", "1gbit"],
        "gradient_accumulation": [1, 2],
    }
    write_study(tmp_path, device="cpu", baseline={"variant": "zero3"}, matrix=matrix)
    *losses, verdicts = figures_of(tmp_path)
    assert [figure.title for figure in losses] == [
        f"toy, 2x2-hpz2, gradient accumulation {count}: training loss by policy and link" for count in (1, 2)
    ]
    assert [figure.name.split("hpz2_")[1] for figure in losses] == [
        "gradient-accumulation-1",
        "gradient-accumulation-2",
    ]
    assert set(losses[0].table["panel"]) == {"native, 50mbit", "native, 1gbit"}
    assert all(text in verdicts.svg() for text in ("g=1, 50mbit", "g=2, 1gbit"))


def test_rebuilding_where_nothing_is_ends_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figures", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"hpz: {tmp_path}")


def test_an_unfinished_study_is_not_kept(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    write_run(tmp_path, study.runs[0], as_known(study.runs[0]), state="running")
    with pytest.raises(HarnessError, match="1 runs are not done"):
        keep(tmp_path, tmp_path / "compact")


def test_runs_of_a_changed_working_tree_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.record.directory.git_state", lambda: {"commit": "c" * 40, "dirty": True})
    study = write_study(tmp_path)
    with pytest.raises(HarnessError, match=f"{len(study.runs)} runs were made with uncommitted changes"):
        keep(tmp_path, tmp_path / "compact")


def test_an_unfinished_study_is_kept_where_that_is_allowed_and_says_what_is_missing(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    write_run(tmp_path, study.runs[0], as_known(study.runs[0]), state="running")
    kept = keep(tmp_path, tmp_path / "compact", unfinished=True)
    (missing, *_) = summarise_folder(kept)["not_run"]
    assert missing["run_id"] == study.runs[0].run_id and "running" in missing["reason"]


def test_an_unknown_verb_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frobnicate"]) == 2
    assert "python -m analysis figures" in capsys.readouterr().err


def test_an_inlined_figure_takes_the_colours_of_its_page(tmp_path: Path) -> None:
    write_study(tmp_path)
    for figure in figures_of(tmp_path):
        svg = inline(figure.svg(), figure.title)
        sheet = svg[svg.index('patch_1"') :]
        assert "fill: none" in sheet[: sheet.index("</g>")]
        assert "#1f2328" not in svg and "var(--ink)" in svg
