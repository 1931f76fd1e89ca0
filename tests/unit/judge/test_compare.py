"""`hpz compare`: curves of any form against each other, in words and as an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from analysis.judge.band import Floats
from harness.cli.compare import share
from harness.cli.main import app
from harness.system.errors import HarnessError

RANDOM = np.random.default_rng(11)
LOSSES = 8 * np.exp(-np.arange(1, 31) / 10) + 2


def golden(file: Path, losses: Floats, digits: int = 12) -> Path:
    """A text of torchtitan's golden values."""
    file.write_text("".join(f"{step} {loss:.{digits}f}\n" for step, loss in enumerate(losses, 1)))
    return file


def compared(*words: Path | str | float) -> tuple[int, dict[str, object]]:
    done = CliRunner().invoke(app, ["compare", *map(str, words), "--json"])
    if isinstance(done.exception, HarnessError):
        raise done.exception
    return done.exit_code, json.loads(done.output)


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    return [golden(tmp_path / f"seed-{n}.txt", LOSSES + RANDOM.normal(0, 0.02, 30)) for n in range(5)]


def test_a_log_as_printed_equals_the_golden_file_in_its_digits(tmp_path: Path) -> None:
    kept = golden(tmp_path / "golden.txt", LOSSES)
    log = tmp_path / "train.log"
    log.write_text("".join(f"step: {n}  loss: {loss:.5f}\n" for n, loss in enumerate(LOSSES, 1)))
    code, found = compared(kept, log)
    assert (code, found["verdict"], found["steps"]) == (0, "exact", 30)
    assert found["notes"] == ["losses are compared in 5 digits after the point, as the shortest are logged"]


def test_golden_values_of_megatron_are_read_at_their_steps(tmp_path: Path) -> None:
    def written(name: str, off: float) -> Path:
        values = {str(step): LOSSES[step - 1] + off for step in (1, 5, 10, 15, 20)}
        quantity = {"start_step": 1, "end_step": 20, "step_interval": 5, "values": values}
        (tmp_path / name).write_text(json.dumps({"lm loss": quantity, "num-zeros": quantity}))
        return tmp_path / name

    code, found = compared(written("kept.json", 0.0), written("new.json", 0.001))
    assert (code, found["verdict"], found["steps"]) == (0, "rounding", 5)
    code, found = compared(golden(tmp_path / "all.txt", LOSSES), tmp_path / "new.json")
    assert found["steps"] == 5 and found["notes"][0] == "5 of 30 steps are common to all"  # type: ignore[index]


def test_one_more_seed_is_equivalent_and_says_what_it_could_have_missed(seeds: list[Path]) -> None:
    code, found = compared(seeds[0], seeds[4], *(word for file in seeds[1:4] for word in ("--a", file)))
    assert (code, found["verdict"], found["seeds"]) == (0, "equivalent", [4, 1])
    assert 0.02 < float(str(found["smallest_drift"])) < 0.4


def test_a_lasting_drift_beyond_the_seeds_fails_the_build(tmp_path: Path, seeds: list[Path]) -> None:
    bad = golden(tmp_path / "bad.txt", LOSSES + 0.5 * (np.arange(30) >= 15))
    code, found = compared(seeds[0], seeds[1], "--b", bad, *(word for f in seeds[2:] for word in ("--a", f)))
    assert (code, found["verdict"]) == (1, "drifted")
    verdicts = [(one["verdict"], one["first_bad_step"]) for one in found["curves"]]  # type: ignore[index, attr-defined]
    assert verdicts == [("equivalent", None), ("drifted", 16)]


def test_two_curves_alone_are_rounding_or_not(tmp_path: Path) -> None:
    kept = golden(tmp_path / "kept.txt", LOSSES)
    assert compared(kept, golden(tmp_path / "b.txt", LOSSES * 1.001))[1]["verdict"] == "rounding"
    late = LOSSES * (1 + np.r_[np.full(25, 1e-5), np.full(5, 0.1)])
    code, found = compared(kept, golden(tmp_path / "late.txt", late))
    assert (code, found["verdict"]) == (1, "drifted")
    assert "only seeds tell" in str(found["curves"])
    assert compared(kept, tmp_path / "late.txt", "--within", 0.2)[0] == 0
    assert compared(kept, tmp_path / "late.txt", "--within", 0.05)[0] == 1


def test_a_loss_that_is_no_number_has_diverged(tmp_path: Path) -> None:
    nan = LOSSES.copy()
    nan[6:] = np.nan
    code, found = compared(golden(tmp_path / "kept.txt", LOSSES), golden(tmp_path / "nan.txt", nan))
    assert (code, found["verdict"]) == (1, "diverged")
    with pytest.raises(HarnessError, match="side A diverged itself: loss is NaN at step 7"):
        compared(tmp_path / "nan.txt", tmp_path / "kept.txt")


def test_curves_without_a_common_step_cannot_be_compared(tmp_path: Path) -> None:
    (tmp_path / "later.csv").write_text("step,loss\n100,2.1\n101,2.0\n")
    with pytest.raises(HarnessError, match=r"no step in common \(steps 1 to 30, 100 to 101\)"):
        compared(golden(tmp_path / "kept.txt", LOSSES), tmp_path / "later.csv")


def test_the_runs_of_one_file_are_its_seeds_and_one_may_be_named(tmp_path: Path) -> None:
    names = ["s1", "s2", "s3"]
    rows = [RANDOM.normal(loss, 0.02, 3) for loss in LOSSES]
    text = "step," + ",".join(f"{name} - train/loss" for name in names) + "\n"
    text += "".join(f"{n},{','.join(map(str, row))}\n" for n, row in enumerate(rows, 1))
    (tmp_path / "wandb.csv").write_text(text)
    code, found = compared(tmp_path / "wandb.csv", tmp_path / "wandb.csv", "--run-b", "s2")
    assert (code, found["verdict"], found["seeds"]) == (0, "exact", [3, 1])
    with pytest.raises(HarnessError, match="holds no run 's9'"):
        compared(tmp_path / "wandb.csv", tmp_path / "wandb.csv", "--run-b", "s9")


def test_a_share_may_be_given_in_percent() -> None:
    assert share("1%") == share("0.01") == 0.01
    for text in ("x", "-5%", "nan", "inf", "%"):
        with pytest.raises(typer.BadParameter, match=f"'{text}' is no share; give one as 1% or 0.01"):
            share(text)
