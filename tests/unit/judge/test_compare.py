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
    with pytest.raises(
        HarnessError, match="side A diverged itself, first at step 7: loss is NaN from there on; name"
    ):
        compared(tmp_path / "nan.txt", tmp_path / "kept.txt")


def reason(found: dict[str, object]) -> str:
    return str(found["curves"][0]["reason"])  # type: ignore[index]


def test_a_run_that_breaks_after_the_golden_curve_ends_has_diverged(tmp_path: Path) -> None:
    kept = golden(tmp_path / "kept.txt", LOSSES[:20])
    longer = golden(tmp_path / "longer.txt", LOSSES)
    assert compared(kept, longer)[0] == 0  # a short golden file is the usual
    nan = golden(tmp_path / "nan.txt", np.where(np.arange(1, 31) > 25, np.nan, LOSSES))
    code, found = compared(kept, nan)
    assert (code, found["verdict"], found["curves"][0]["first_bad_step"]) == (1, "diverged", 26)  # type: ignore[index]
    assert reason(found) == "loss is NaN from there on"
    assert compared(kept, nan, "--up-to", 20)[1]["verdict"] == "exact"


def test_a_single_nan_between_the_common_steps_is_said_to_be_alone(tmp_path: Path) -> None:
    tenth = tmp_path / "tenth.csv"
    tenth.write_text("step,loss\n" + "".join(f"{n},{LOSSES[n - 1]}\n" for n in (10, 20, 30)))
    once = golden(tmp_path / "once.txt", np.where(np.arange(1, 31) == 13, np.nan, LOSSES))
    code, found = compared(tenth, once)
    assert (code, found["verdict"]) == (1, "diverged")
    assert reason(found) == "loss is NaN there alone; 17 steps after it are finite"


@pytest.mark.parametrize("end", [1, 15, 29])
def test_a_run_that_ends_before_the_golden_curve_is_not_called_alike(tmp_path: Path, end: int) -> None:
    kept = golden(tmp_path / "kept.txt", LOSSES)
    (tmp_path / "dead.csv").write_text(
        "step,loss\n" + "".join(f"{n},{LOSSES[n - 1]:.12f}\n" for n in range(1, end + 1))
    )
    code, found = compared(kept, tmp_path / "dead.csv")
    assert (code, found["verdict"], found["same"]) == (1, "unfinished", False)
    assert f"ends at step {end}, and side A goes on to 30" in reason(found)
    code, found = compared(kept, tmp_path / "dead.csv", "--up-to", end)
    assert (code, found["verdict"], found["steps"]) == (0, "exact", end)


@pytest.mark.parametrize("steps", [range(10, 31, 10), range(7, 29, 7), range(30)])
def test_a_run_that_logged_at_another_interval_or_from_0_did_not_end_early(
    tmp_path: Path, steps: range
) -> None:
    kept = golden(tmp_path / "kept.txt", LOSSES)
    rows = "".join(f"{n},{LOSSES[max(n - 1, 0)]:.12f}\n" for n in steps)
    (tmp_path / "other.csv").write_text("step,loss\n" + rows)
    assert compared(kept, tmp_path / "other.csv")[1]["verdict"] == "exact"


def test_one_step_in_common_of_many_tells_nothing(tmp_path: Path) -> None:
    kept = golden(tmp_path / "kept.txt", LOSSES)
    (tmp_path / "later.csv").write_text("step,loss\n30,2.4\n60,2.2\n")
    with pytest.raises(HarnessError, match="step 30 alone is common to all curves, which tells nothing"):
        compared(kept, tmp_path / "later.csv")


def test_steps_counted_from_0_are_recognised(tmp_path: Path) -> None:
    kept = golden(tmp_path / "kept.txt", LOSSES)
    (tmp_path / "wandb.csv").write_text(
        "_step,loss\n" + "".join(f"{n},{loss:.12f}\n" for n, loss in enumerate(LOSSES))
    )
    code, found = compared(kept, tmp_path / "wandb.csv")
    assert (code, found["verdict"]) == (1, "drifted")
    assert "counted one higher, 30 steps are the same: does one side count from 0" in str(found["notes"])


def test_a_loss_of_1e308_is_compared_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    huge = golden(tmp_path / "huge.txt", np.where(np.arange(1, 31) == 13, 1e308, LOSSES), digits=14)
    code, found = compared(golden(tmp_path / "kept.txt", np.round(LOSSES, 5), digits=5), huge)
    assert (code, found["verdict"], len(recwarn)) == (1, "drifted", 0)
    assert "inf%" not in reason(found)


def test_a_side_without_a_loss_is_named(tmp_path: Path) -> None:
    (tmp_path / "norms.csv").write_text("step,grad_norm\n1,2.0\n2,2.1\n")
    with pytest.raises(
        HarnessError, match=r"norms.csv \(side B\) has no training loss to compare: no training loss here"
    ):
        compared(golden(tmp_path / "kept.txt", LOSSES), tmp_path / "norms.csv")


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
