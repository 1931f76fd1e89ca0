"""The installed DeepSpeed, whichever release it is: trained from its overlay, and analysed by `hpz race`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.system.ports import Port
from harness.variants import installed_release
from tests.deepspeed.race.race_help import SCRIPTS

SCRIPT = SCRIPTS / "bare_loop.py"
RANKS = 2

pytestmark = pytest.mark.slow


def hpz(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "harness.cli", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def trained(overlay: str) -> list[str]:
    """What each rank of a training over gloo printed, with the overlay before the installed DeepSpeed."""
    with Port() as port:
        return trained_at(port.number, overlay)


def trained_at(port: int, overlay: str) -> list[str]:
    world = {"WORLD_SIZE": str(RANKS), "LOCAL_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1"}
    place = {**world, "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu", "PYTHONPATH": overlay}
    command = [sys.executable, str(Path(__file__).with_name("overlaid_rank.py")), str(SCRIPT)]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    printed = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * RANKS, printed
    return printed


def test_training_loads_every_file_of_deepspeed_from_the_overlay() -> None:
    overlay = hpz("patch", "path", "event").strip()
    for printed in trained(overlay):
        (files,) = re.findall(r"^FILES (.*)$", printed, re.MULTILINE)
        loaded = [Path(file) for file in json.loads(files)]
        assert Path(overlay) / "deepspeed/runtime/zero/partition_parameters.py" in loaded
        assert [file for file in loaded if not file.is_relative_to(overlay)] == []
        assert re.search(r"^final loss \d", printed, re.MULTILINE)


def race(tmp_path: Path, variant: str) -> dict[str, Any]:
    words = (
        "--ranks",
        str(RANKS),
        "--variant",
        variant,
        "--no-explore",
        "--results",
        str(tmp_path),
        "--json",
    )
    report: dict[str, Any] = json.loads(hpz("race", "--script", str(SCRIPT), *words))
    assert (report["problems"], report["steps"]) == ([], 2)
    return report


def test_a_script_shows_the_race_without_the_order_and_not_with_it(tmp_path: Path) -> None:
    labels = {
        variant: {found["label"] for found in race(tmp_path / variant, variant)["races"]}
        for variant in ("unordered", "event")
    }
    assert "hpz-secondary-copy" in labels["unordered"], installed_release()
    assert "hpz-secondary-copy" not in labels["event"], installed_release()


def test_a_script_is_analysed_on_the_release_as_it_is_installed(tmp_path: Path) -> None:
    words = ("--ranks", str(RANKS), "--results", str(tmp_path), "--json", "--no-explore")
    report = json.loads(hpz("race", "--script", str(SCRIPT), *words))
    assert (report["problems"], report["steps"]) == ([], 2)
