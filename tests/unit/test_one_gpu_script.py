"""The script of the whole GPU evidence says in one sentence what is missing, before it starts anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.study import REPOSITORY

SCRIPT = REPOSITORY / "experiments" / "one-gpu.sh"


def run(*words: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *words],
        env=os.environ | {"PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("one-gpu.sh: ") and done.stderr.count("\n") == 1
    return done.stderr


def test_without_a_folder_it_asks_for_one() -> None:
    assert "experiments/one-gpu.sh OUT [STAGE...]" in refusal(run())


def test_an_unknown_stage_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    assert "use study, sanitizer, profile, calibrate, report or tests" in refusal(run(str(tmp_path), "paint"))


def test_missing_wheels_are_named(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')  # without site-packages
    bare.chmod(0o755)
    said = refusal(run(str(tmp_path / "out"), python=str(bare)))
    assert "lacks torch deepspeed transformers" in said and "install the wheels" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    assert "device cuda: " in refusal(run(str(tmp_path / "out")))
    assert list((tmp_path / "out").iterdir()) == []


def test_its_limits_add_up_to_eight_minutes() -> None:
    stages = [line.split() for line in SCRIPT.read_text().splitlines() if line.startswith("#   ")]
    limits = {words[1]: int(words[2]) for words in stages if len(words) > 2 and words[2].isdigit()}
    assert limits.pop("tests")
    assert set(limits) == {"study", "sanitizer", "profile", "calibrate", "report"}
    assert sum(limits.values()) <= 480
