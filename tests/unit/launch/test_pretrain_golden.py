"""The pretraining study as a person with a cluster gets it: its plan and its first batch script, compared whole.

After a meant change: UPDATE_GOLDEN=1 pytest tests/unit/launch/test_pretrain_golden.py
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli.plan import plan_rows
from harness.launch.slurm.profile import load_profile
from harness.launch.slurm.script import render
from harness.launch.slurm.submit import plan_submissions
from harness.study import Study, load_study
from harness.system.places import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "golden"
PROFILES = {"pretrain": "generic-8gpu", "pretrain-mini": "one-machine"}


def compare(name: str, text: str) -> None:
    golden = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def described(study: Study) -> str:
    """A line for each model, shape and variant; seeds differ in nothing of the plan."""
    lines = []
    for run, row in zip(study.runs, plan_rows(study), strict=True):
        memory = f"{row['memory']['peak'] / 1e9:.1f} GB a rank" if row["memory"] else "no GPU"
        hours = f"{row['gpu_hours']:.1f} GPU-hours" if row["gpu_hours"] else "no card"
        training = run.training
        lines.append(
            f"{run.model} {run.shape} {run.variant}: {training.steps} steps of {run.tokens_per_step} tokens "
            f"({training.gradient_accumulation} micro-batches of {training.micro_batch}), {memory}, {hours}, "
            f"fits: {row['fits']}"
        )
    return "\n".join(dict.fromkeys(lines)) + "\n"


@pytest.mark.parametrize("name", PROFILES)
def test_the_plan_is_as_recorded(name: str) -> None:
    compare(f"{name}.plan.txt", described(load_study(REPOSITORY / "experiments" / f"{name}.yaml")))


@pytest.mark.parametrize("name", PROFILES)
def test_the_first_batch_script_is_as_recorded(name: str) -> None:
    study = load_study(REPOSITORY / "experiments" / f"{name}.yaml")
    profile = load_profile(REPOSITORY / "slurm" / "clusters" / f"{PROFILES[name]}.yaml")
    first = plan_submissions(study, Path("/results") / name, profile, None)[0]
    here = replace(
        first, python="/venv/bin/python", repository=Path("/results") / name / "code" / "0123456789abcdef"
    )
    compare(f"{name}.sbatch", render(here, profile))


def test_aligned_and_unaligned_node_counts_are_both_there_and_each_step_has_as_many_tokens() -> None:
    from harness.study import parse_model, unaligned_parameters

    study = load_study(REPOSITORY / "experiments" / "pretrain.yaml")
    aligned = {
        (run.model, run.shape.nodes): not unaligned_parameters(
            parse_model(run.model_spec, run.model), run.shape.world_size
        )
        for run in study.runs
    }
    assert {nodes for (_, nodes), even in aligned.items() if even} == {2, 4, 8}
    assert {nodes for (_, nodes), even in aligned.items() if not even} == {3, 6}
    assert {run.tokens_per_step for run in study.runs} == {1_572_864}
    assert {run.seed for run in study.runs} == {1, 2, 3}
