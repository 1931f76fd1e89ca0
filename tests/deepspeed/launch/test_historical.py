"""Old releases on today's torch: the study that `make historical RELEASE=…` runs, and what is known of each release."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.system.places import REPOSITORY

ALIGNED, UNALIGNED = "llama2-toy", "llama2-toy-unaligned"


def verdicts(release: str, folder: Path) -> dict[tuple[str, str], str]:
    """Model and variant → verdict against ZeRO-3 of the same release, on a plain CPU."""
    command = [sys.executable, "-m", "harness.cli", "run", "experiments/historical.yaml"]
    done = subprocess.run(
        [*command, "--release", release, "--results", str(folder), "--json"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "cannot be fetched" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr[-2000:]
    pairs = json.loads((folder / "summary.json").read_text())["pairs"]
    assert all(pair["release"] == release and pair["secondary_gathers_per_step"] for pair in pairs)
    return {(pair["model"], pair["variant"]): pair["verdict"] for pair in pairs}


@pytest.mark.slow
@pytest.mark.parametrize("release", ["0.13.4", "0.14.2"])
def test_only_the_old_copy_on_unaligned_sizes_differs_from_zero3(release: str, tmp_path: Path) -> None:
    found = verdicts(release, tmp_path)
    assert found.pop((UNALIGNED, "stock")) == "diverged"
    assert set(found.values()) == {"exact"}


@pytest.mark.slow
def test_a_release_that_keeps_its_secondaries_drifts_whatever_the_variant(tmp_path: Path) -> None:
    assert set(verdicts("0.12.6", tmp_path).values()) == {"drifted"}
