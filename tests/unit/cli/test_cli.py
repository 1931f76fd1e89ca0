"""The `hpz` command from outside: exit codes, one-sentence errors, plain output where there is no terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StudyFile


def hpz(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *words], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_plan_touches_nothing_and_prints_whole_run_ids(study_file: StudyFile, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    file = study_file()
    done = hpz("plan", str(file), cwd=tmp_path)
    assert done.returncode == 0
    rows = json.loads(hpz("plan", str(file), "--json").stdout)
    assert len(rows) == 2 and all(row["run_id"] in done.stdout for row in rows)
    assert sorted(path for path in tmp_path.rglob("*") if "experiments" not in path.parts) == before


def test_bad_input_exits_2_with_one_sentence(study_file: StudyFile) -> None:
    done = hpz("plan", str(study_file(trainig={})))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "did you mean 'training'?" in done.stderr


def test_verbose_keeps_the_traceback(study_file: StudyFile) -> None:
    assert "Traceback" in hpz("-v", "plan", str(study_file(trainig={}))).stderr


def test_a_login_node_needs_neither_torch_nor_deepspeed(study_file: StudyFile) -> None:
    block = "import sys; sys.modules.update(torch=None, deepspeed=None, transformers=None); "
    run = f"sys.argv = ['hpz', 'plan', {str(study_file())!r}]; from harness.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", block + run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_file_that_is_no_study_is_named(tmp_path: Path) -> None:
    done = hpz("report", str(tmp_path / "none.yaml"))
    assert done.returncode == 2 and "none.yaml: cannot be read" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_is_no_error(unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "harness.cli", "explain", "rank"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=environment
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
