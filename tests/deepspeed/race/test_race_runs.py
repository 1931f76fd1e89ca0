"""Runs of a study: which variant shows which fault, and that a replay repeats it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.race.explore import Budget
from harness.race.investigate import Settings, analysed, investigate
from harness.race.job import Job, Program
from harness.race.launch import Ranks
from harness.race.replay import read_replay, replayed
from harness.race.report import Report
from harness.study import Run, load_study
from tests.conftest import StudyFile

STEPS = 3


def run_of(study_file: StudyFile, variant: str, **changes: object) -> Run:
    matrix = {"model": "llama2-mini", "variant": variant, "shape": "1x2-hpz2", **changes}
    zero = {
        "stage3_prefetch_bucket_size": 1000,
        "stage3_max_live_parameters": 4000,
        "reduce_bucket_size": 6000,
    }
    content = {"device": "virtual", "matrix": matrix, "deepspeed": {"zero_optimization": zero}}
    study = load_study(study_file(**content, baseline={"variant": variant}))
    return study.runs[0]


def analyse(run: Run, steps: int = STEPS) -> Report:
    program = Program.of_run(run, steps)
    with Ranks(program.overlay, transformers=True) as ranks:
        return analysed(Job(program), ranks.run(Job(program)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "timer", "expected"),
    [
        (
            "unordered",
            True,
            {"hpz-secondary-copy"},
        ),  # the timer waits before the steps that the trace does not cover
        ("fixed", False, {"step-partition-copy"}),
        ("event+step", False, set()),
    ],
)
def test_a_variant_shows_the_faults_that_it_has(
    study_file: StudyFile, variant: str, timer: bool, expected: set[str]
) -> None:
    report = analyse(run_of(study_file, variant, throughput_timer=timer))
    assert report.problems == ()
    assert report.labels == expected
    assert all(race.label for race in report.races)


@pytest.mark.slow
def test_the_race_of_unordered_has_a_replay_of_one_swap(study_file: StudyFile, tmp_path: Path) -> None:
    program = Program.of_run(run_of(study_file, "unordered"), 2)
    with Ranks(program.overlay, transformers=True) as ranks:
        settings = Settings(Budget(seeds=0, races=1, shrink=5))
        report = investigate(Job(program), ranks, tmp_path, settings)
        found = [race for race in report.races if race.effect and race.effect.found]
        assert found
        effect = found[0].effect
        assert effect is not None
        assert effect.decisions == 1
        assert "before" in effect.story[0]
        replay, job = read_replay(Path(str(effect.replay)))
        assert replayed(replay, job, ranks.run).same
