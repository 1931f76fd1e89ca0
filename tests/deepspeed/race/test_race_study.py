"""`hpz race` on a study, on one of its runs and on what it found there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from analysis.judge.race_matrix import load_matrix
from harness.cli.race import race
from harness.race.launch import Ranks
from harness.race.matrix import Matrix
from harness.race.replay import read_replay, replayed
from harness.race.report import Report
from harness.study import load_study
from harness.system.places import REPOSITORY
from tests.conftest import write_study

app = typer.Typer()
app.command()(race)

UPSTREAM = sorted((REPOSITORY / "patches" / "upstream").glob("replay-*.json"))


def hpz_race(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants of a small model, small against its buffers, so that secondary shards are gathered."""
    zero = {
        "stage3_prefetch_bucket_size": 1000,
        "stage3_max_live_parameters": 4000,
        "reduce_bucket_size": 6000,
    }
    return write_study(
        tmp_path_factory.mktemp("study"),
        name="small",
        device="virtual",
        matrix={"model": "llama2-mini", "variant": ["unordered", "event+step"], "shape": "1x2-hpz2"},
        baseline={"variant": "unordered"},
        deepspeed={"zero_optimization": zero},
    )


@pytest.fixture(scope="module")
def analysed(study: Path) -> tuple[Path, Result, Matrix]:
    folder = study.parent / "results"
    result = hpz_race(study, "--results", folder, "--seeds", 0, "--steps", 3)
    matrix = load_matrix(folder)
    assert matrix is not None
    return folder, result, matrix


@pytest.mark.slow
def test_a_study_says_which_variant_has_which_fault(analysed: tuple[Path, Result, Matrix]) -> None:
    _, result, matrix = analysed
    assert result.exit_code == 0
    assert matrix.analysed == 2
    found = {row.variant: set(row.labels) for row in matrix.rows}
    assert "hpz-secondary-copy" in found["unordered"]
    assert found["event+step"] == set()


@pytest.mark.slow
def test_a_study_says_what_ordering_costs_by_source_line(analysed: tuple[Path, Result, Matrix]) -> None:
    _, result, matrix = analysed
    events = {
        cost.variant: cost.per_step
        for cost in matrix.costs
        if cost.kind == "event-record" and cost.place.endswith("_partition_param_sec")
    }
    assert events.keys() == {"event+step"}
    assert "Host waits a step by source line" in result.stdout


@pytest.mark.slow
def test_a_fault_of_a_study_comes_with_a_replay_that_the_command_reproduces(
    analysed: tuple[Path, Result, Matrix],
) -> None:
    _, _, matrix = analysed
    fault = next(fault for fault in matrix.faults if fault.name == "hpz-secondary-copy")
    assert fault.effect.found
    result = hpz_race("--replay", fault.effect.replay)
    assert result.exit_code == 0
    assert "reproduced to the bit" in result.stdout


def changed_replay(matrix: Matrix, file: Path, change: Callable[[dict[str, Any]], None]) -> Result:
    """What `hpz race --replay` says of the study's fault, once its replay has been changed."""
    fault = next(fault for fault in matrix.faults if fault.name == "hpz-secondary-copy")
    content = json.loads(Path(str(fault.effect.replay)).read_text())
    change(content)
    file.write_text(json.dumps(content))
    return hpz_race("--replay", file)


@pytest.mark.slow
def test_a_replay_that_another_python_found_is_held_against_the_order_of_issue_here(
    analysed: tuple[Path, Result, Matrix], tmp_path: Path
) -> None:
    def elsewhere(content: dict[str, Any]) -> None:
        content["job"]["program"]["run"]["data"]["sha256"] = "0" * 64
        content["versions"]["python"] = "3.11.0"
        content["expected"]["losses"][-1] = "5.0"

    result = changed_replay(analysed[2], tmp_path / "replay.json", elsewhere)
    assert result.exit_code == 0
    assert re.search(r"shown again, with other values: the loss of step \d is \S+ instead of", result.stdout)
    assert "python was 3.11.0, is " in result.stdout
    assert "its text, Python's standard library, is another here" in result.stdout


@pytest.mark.slow
def test_a_replay_on_a_fixed_deepspeed_shows_nothing_any_more(
    analysed: tuple[Path, Result, Matrix], tmp_path: Path
) -> None:
    def mended(content: dict[str, Any]) -> None:
        content["job"]["program"]["variant"] = content["job"]["program"]["run"]["variant"] = "event+step"

    result = changed_replay(analysed[2], tmp_path / "replay.json", mended)
    assert result.exit_code == 1
    assert "NOT reproduced: the values are those of the order of issue; " in result.stdout


@pytest.mark.slow
def test_what_was_analysed_is_analysed_again_only_where_the_steps_differ(
    study: Path, analysed: tuple[Path, Result, Matrix], tmp_path: Path
) -> None:
    before, _, matrix = analysed
    folder = shutil.copytree(
        before, tmp_path / "results"
    )  # as a new report takes away what an old one has left
    hpz_race(study, "--results", folder, "--seeds", 0, "--steps", 3)
    again = load_matrix(folder)
    assert again is not None
    assert (again.analysed, again.rows) == (0, matrix.rows)
    hpz_race(study, "--results", folder, "--no-explore", "--steps", 2)
    shorter = load_matrix(folder)
    assert shorter is not None
    assert (shorter.analysed, {row.steps for row in shorter.rows}) == (2, {2})


@pytest.mark.slow
def test_a_run_of_a_study_can_be_analysed_alone(
    study: Path, analysed: tuple[Path, Result, Matrix], tmp_path: Path
) -> None:
    run = next(run for run in load_study(study).runs if run.variant == "event+step")
    result = hpz_race(analysed[0] / "runs" / run.run_id, "--results", tmp_path, "--steps", 2, "--json")
    assert result.exit_code == 0
    assert Report.model_validate_json(result.stdout).races == ()


@pytest.mark.slow
def test_a_study_in_which_a_run_fails_ends_with_an_error(study: Path, tmp_path: Path) -> None:
    result = hpz_race(study, "--results", tmp_path, "--no-explore", "--steps", 2, "--timeout", 0.5)
    assert result.exit_code == 1
    matrix = load_matrix(tmp_path)
    assert matrix is not None
    assert {row.problem.partition(":")[0] for row in matrix.rows if row.problem} == {"the time limit passed"}


@pytest.mark.slow
@pytest.mark.parametrize("file", UPSTREAM, ids=lambda file: file.stem)
def test_the_replays_for_upstream_still_show_what_they_tell(file: Path) -> None:
    replay, job = read_replay(file)
    with Ranks(job.program.overlay, transformers=job.program.transformers) as ranks:
        again = replayed(replay, job, ranks.run)
    assert again.outcome.problem is None
    assert again.shows
    assert again.same or again.changed
