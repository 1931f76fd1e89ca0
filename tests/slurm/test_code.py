"""The code of a submission is the code of its runs, whatever is done to the checkout while they wait."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from harness.launch.slurm.snapshot import PARTS
from harness.record import RunDirectory
from harness.system.places import REPOSITORY
from tests.slurm.conftest import Submitter, wait_for_states


def test_an_edit_while_tasks_wait_reaches_no_run_and_is_told_at_the_next_submit(
    submitter: Submitter, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    for part in PARTS:
        source = REPOSITORY / part
        ignore = shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, checkout / part, ignore=ignore)
        else:
            shutil.copy(source, checkout / part)
    profile = tmp_path / "profile.yaml"
    late = submitter.profile(options=["--begin=now+6seconds"])
    profile.write_text(yaml.safe_dump(late.model_dump(mode="json")))

    def submit(**study: object) -> tuple[Path, str]:
        file = submitter.study_file(**study)
        words = [sys.executable, "-m", "harness.cli", "submit", str(file), "--cluster", str(profile)]
        environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
        words += ["--results", str(tmp_path / "results")]
        done = subprocess.run(
            words, capture_output=True, text=True, cwd=checkout, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return file, done.stderr

    from harness.study import load_study

    file, _ = submit()
    for broken in ("harness/launch/slurm/task.py", "harness/record/directory.py"):
        (checkout / broken).write_text("raise SystemExit('edited while tasks wait')\n")
    study = load_study(file)
    wait_for_states(study, tmp_path / "results", "done")
    for run in study.runs:
        folder = tmp_path / "results" / "runs" / run.run_id
        code = json.loads(RunDirectory(folder).run_file.read_text())["code"]
        (line,) = (folder / "allocations.jsonl").read_text().splitlines()
        assert json.loads(line)["code"] == code
        assert (tmp_path / "results" / "code" / code / "harness" / "launch" / "slurm" / "task.py").exists()

    for part in ("harness/launch/slurm/task.py", "harness/record/directory.py"):
        shutil.copy(REPOSITORY / part, checkout / part)
    (checkout / "harness" / "launch" / "slurm" / "task.py").open("a").write("# a comment\n")
    _, said = submit(matrix={"model": "llama2-toy", "variant": "fixed", "shape": "2x2-hpz2", "seed": [1, 2]})
    assert "2 runs that are done had code" in said and "harness/launch/slurm/task.py differs" in said
