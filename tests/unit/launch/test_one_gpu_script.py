"""The script of the whole GPU evidence says in one sentence what is missing, before it starts anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.system.places import REPOSITORY

SCRIPT = REPOSITORY / "experiments" / "one-gpu.sh"


def run(*words: str, python: str = sys.executable, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *words],
        env=os.environ | {"PYTHON": python} | variables,
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


def test_its_limits_are_those_at_its_head_and_add_up_to_what_it_allows_itself() -> None:
    text = SCRIPT.read_text()
    named = {stage: int(limit) for stage, limit in re.findall(r"^#   (\w+) +(\d+)  ", text, re.MULTILINE)}
    applied: dict[str, int] = {}
    for stage, body in re.findall(r"^(\w+)\(\) \{(.*?)\}$", text, re.MULTILINE | re.DOTALL):
        for limit in re.findall(r"(?:bounded|witness \w+) (\d+)", body):
            applied[stage] = applied.get(stage, 0) + int(limit)
    assert applied == named
    allowed = re.search(r"HPZ_SECONDS:-(\d+)", text)
    assert allowed and sum(applied.values()) - applied["tests"] == int(allowed[1])
    assert f"what is left of HPZ_SECONDS, {allowed[1]}" in text


# ---- the stages, with a Python that does as it is told


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A Python that passes every check, notes the stages that it is asked for, and runs `study` as the test says."""
    file = tmp_path / "python"
    file.write_text(
        f"""#!/bin/sh
        case "$*" in *harness.cli*) echo "$*" >>{tmp_path}/asked ;; esac
        case "$*" in *"run experiments/one-gpu.yaml"*) exec sh {tmp_path}/study ;; esac
        """
    )
    file.chmod(0o755)
    return file


def staged(fake: Path, study: str, seconds: int = 480) -> subprocess.CompletedProcess[str]:
    (fake.parent / "study").write_text(study)
    return run(str(fake.parent / "out"), python=str(fake), HPZ_SECONDS=str(seconds))


def test_all_stages_are_run_and_the_calibration_is_kept(fake: Path) -> None:
    done = staged(fake, "exit 0")
    assert (done.returncode, done.stderr) == (0, "")
    asked = [line.split()[2:4] for line in (fake.parent / "asked").read_text().splitlines()]
    assert [words[0] for words in asked] == ["run", "run", "run", "calibrate", "report", "report"]
    assert (fake.parent / "out" / "one-gpu" / "calibration.json").is_file()


def test_a_stage_that_fails_is_named_and_the_others_are_run(fake: Path) -> None:
    done = staged(fake, "exit 3")
    assert done.returncode == 1
    assert done.stderr == "one-gpu.sh: study (exit code 3) did not end well; what it finished is kept\n"


def test_a_stage_at_its_limit_leaves_time_for_the_report_and_the_next_call_goes_on(fake: Path) -> None:
    done = staged(
        fake, "exec sleep 60", seconds=92
    )  # 80 are for the report; 7 of the rest may be lost to the start
    said = done.stderr.splitlines()
    assert done.returncode == 1
    assert said[0].startswith("one-gpu.sh: study (ran into its limit) did not end well")
    assert [line.split()[1:5] for line in said[1:]] == [
        [stage, "(no", "time", "left)"] for stage in ("sanitizer", "profile", "calibrate")
    ]
    assert "== report, at most" in done.stdout
    assert staged(fake, "exit 0").returncode == 0
    folders = [
        line.split()[-1]
        for line in (fake.parent / "asked").read_text().splitlines()
        if "one-gpu.yaml" in line
    ]
    assert folders == [str(fake.parent / "out" / "one-gpu")] * 2


def test_the_sanitizers_findings_are_reported_where_its_stage_was_cut_off(fake: Path) -> None:
    (fake.parent / "out" / "sanitizer" / "runs").mkdir(parents=True)
    staged(fake, "exit 0")
    assert f"report {fake.parent}/out/sanitizer\n" in (fake.parent / "asked").read_text()
