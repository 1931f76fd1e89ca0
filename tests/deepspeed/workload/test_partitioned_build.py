"""Full-size models on GPUs are partitioned while they are built: seen here on toys and gloo, through the same code."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.study import Run, load_model_file, load_study
from harness.system.places import REPOSITORY
from harness.workload.models import build_model
from tests.conftest import write_study

MODEL = load_model_file(REPOSITORY / "experiments" / "models" / "llama2-toy.yaml")
Lines = dict[str, list[dict[str, Any]]]  # of the four ranks, by run


def toy_runs(folder: Path) -> dict[str, Run]:
    ((fixed, zero3),) = load_study(write_study(folder)).pairs
    build_model(MODEL, seed=5).save_pretrained(folder / "weights")
    training = fixed.training.model_copy(update={"task": "finetune", "checkpoint": str(folder / "weights")})
    return {
        "fixed": fixed,
        "zero3": zero3,
        "other": zero3.model_copy(update={"seed": 2}),
        "loaded": fixed.model_copy(update={"training": training}),
    }


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Lines:
    folder = tmp_path_factory.mktemp("partitioned")
    files = []
    for name, run in toy_runs(folder).items():
        files.append(folder / f"{name}.json")
        files[-1].write_text(run.model_dump_json())
    command = [sys.executable, "-m", "tests.deepspeed.workload.partitioned_ranks", *map(str, files)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = defaultdict(list)
    for text in finished.stdout.splitlines():
        if text.startswith("{"):
            line = json.loads(text)
            found[line["run"]].append(line)
    assert all(len(found[file.stem]) == 4 for file in files)
    return found


@pytest.mark.slow
def test_a_rank_holds_its_share_and_no_more(lines: Lines) -> None:
    assert {line["held"] for run in lines.values() for line in run} == {MODEL.parameters // 4}


@pytest.mark.slow
def test_all_ranks_have_the_weights_of_their_seed(lines: Lines) -> None:
    weights = {name: {line["weights"] for line in run} for name, run in lines.items()}
    assert all(len(seen) == 1 for seen in weights.values())
    assert weights["fixed"] == weights["zero3"] != weights["other"]


@pytest.mark.slow
def test_weights_are_drawn_as_the_family_draws_them(lines: Lines) -> None:
    spread = lines["fixed"][0]["spread"]
    matrices = {name: value for name, value in spread.items() if "norm" not in name}
    assert len(matrices) == 16
    assert list(matrices.values()) == pytest.approx([0.02] * 16, rel=0.05)
    assert {value for name, value in spread.items() if "norm" in name} == {0.0}


@pytest.mark.slow
def test_a_checkpoint_reaches_every_partition(lines: Lines) -> None:
    saved = hashlib.sha256()
    for parameter in build_model(MODEL, seed=5).parameters():
        saved.update(parameter.detach().to(torch.bfloat16).view(torch.uint8).numpy().tobytes())
    assert {line["weights"] for line in lines["loaded"]} == {saved.hexdigest()}


@pytest.mark.slow
def test_hpz_starts_from_the_same_weights_as_zero3_and_really_gathers(lines: Lines) -> None:
    losses = [sorted(line["losses"] for line in lines[name]) for name in ("fixed", "zero3")]
    assert losses[0] == losses[1]
    assert all(line["secondary_gathers"] > 0 for line in lines["fixed"] + lines["loaded"])
