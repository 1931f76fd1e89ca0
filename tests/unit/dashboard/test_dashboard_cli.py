"""`hpz wandb` and `hpz dashboard` as they are typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.wandb_store import stored, summary


def hpz(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    """The command, for somebody without an account of wandb."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment = known | {"HOME": str(home), "NETRC": str(home / "netrc")}
    command = [sys.executable, "-m", "harness.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_after_a_report_runs_carry_verdicts_and_the_dashboard_is_built(results: Path, tmp_path: Path) -> None:
    for other in sorted((results / "runs").glob("toy_zero3*"))[1:]:
        (other / "run.json").unlink()  # fewer to push
    pushed = hpz("wandb", str(results), "--dashboard", home=tmp_path)
    assert pushed.returncode == 0, pushed.stderr
    assert "verdicts, figures and report pushed as the study's summary run (offline)" in pushed.stdout
    assert (
        f"dashboard built: {results / 'dashboard.json'}" in pushed.stdout
        and (results / "dashboard.json").exists()
    )
    (broken,) = (results / "runs").glob("toy_stock_2x2-hpz2_side-first*")
    assert summary(stored(broken))["verdict"] == "diverged"
    again = hpz("wandb", str(results), home=tmp_path)
    assert again.stdout.splitlines() == ["0 new steps of 9 runs pushed (offline)"]


def test_without_an_account_online_is_refused_with_what_to_do(results: Path, tmp_path: Path) -> None:
    refused = hpz("wandb", str(results), "--dashboard", "--online", home=tmp_path)
    assert refused.returncode == 2
    assert "no account of wandb is known on this machine; run `wandb login` once" in refused.stderr
    assert not list(results.glob("runs/*/wandb.json"))


def test_a_study_without_runs_has_no_dashboard(tmp_path: Path, results: Path) -> None:
    (tmp_path / "empty").mkdir()
    (results / "study.yaml").rename(tmp_path / "empty" / "study.yaml")
    refused = hpz("dashboard", str(tmp_path / "empty"), home=tmp_path)
    assert refused.returncode == 2 and "run the study (hpz run)" in refused.stderr
