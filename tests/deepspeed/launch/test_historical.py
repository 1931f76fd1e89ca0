"""Old releases on today's torch: the study that `make historical RELEASE=…` runs, and what is known of each release."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.system.places import REPOSITORY

UNALIGNED = "llama2-toy-unaligned"
UNWRITTEN = {"drifted", "diverged"}
"""What memory that nobody wrote leads to: by what happens to lie in it, another number or none."""


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
def test_only_the_old_copy_on_unaligned_sizes_differs_from_zero3(tmp_path: Path) -> None:
    found = verdicts("0.14.2", tmp_path)
    assert found.pop((UNALIGNED, "stock")) in UNWRITTEN
    assert set(found.values()) == {"exact"}


@pytest.mark.slow
def test_a_release_that_keeps_its_secondaries_drifts_whatever_the_variant(tmp_path: Path) -> None:
    found = verdicts("0.12.6", tmp_path)
    assert found.pop((UNALIGNED, "stock")) in UNWRITTEN
    assert set(found.values()) == {"drifted"}
