"""Ranks in a container on a real SLURM: they see what is mounted by itself and nothing else of this machine."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from harness.record import RunDirectory
from harness.record.environment import environments
from harness.system.places import REPOSITORY
from tests.slurm.conftest import Submitter, wait_for_states

SECONDS = 600  # imports take most of it, minutes where the machine is busy
pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 100)]
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/dev", "/proc", "/sys")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What tests/slurm/apptainer takes for an image: this system and its Python packages, without the checkout."""
    folders = [folder for folder in SYSTEM if Path(folder).exists()]
    folders += [prefix for prefix in (sys.base_prefix, sys.prefix) if not Path(prefix).is_relative_to("/usr")]
    file = tmp_path / "hpz.sif"
    file.write_text("\n".join(dict.fromkeys(folders)) + "\n")
    return file


def test_ranks_train_in_it_with_code_results_and_cache_mounted_by_themselves(
    submitter: Submitter, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "hpz-cache"))
    submitter.real = True
    profile = submitter.profile(
        container={"apptainer": {"image": str(image), "python": sys.executable}},
        setup=[f"export PATH={REPOSITORY}/tests/slurm:$PATH"],
    )
    study, results, _ = submitter(profile, matrix={"model": "llama2-toy", "variant": "zero3", "shape": "1x2"})
    (status,) = wait_for_states(study, results, "done", "failed", seconds=SECONDS)
    directory = RunDirectory(results / "runs" / study.runs[0].run_id)
    assert status.state == "done", directory.last_lines(0, 40)
    assert list((tmp_path / "hpz-cache" / "overlays").glob("deepspeed-*"))  # made by the ranks, inside

    digest = f"sha256:{hashlib.sha256(image.read_bytes()).hexdigest()}"
    expected = {"runtime": "apptainer", "image": str(image), "digest": digest}
    (line,) = (directory.path / "allocations.jsonl").read_text().splitlines()
    assert json.loads(directory.run_file.read_text())["container"] == expected
    assert json.loads(line)["container"] == expected
    (inside,) = environments(directory)
    assert json.loads(line)["versions"]["torch"] == inside["packages"]["torch"]
