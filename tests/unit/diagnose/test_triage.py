"""Triage's rules on curves made for one sign each; tests/deepspeed holds runs that really have each fault."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.diagnose.cases import Case, Known, exposures_of_run, open_case
from harness.diagnose.curve import curve_of
from harness.diagnose.rules import FAULTS, NEXT, RULES
from harness.diagnose.signs import SIGNS, curve_signs
from harness.diagnose.triage import triage
from harness.record import RunDirectory
from harness.study import Run, Study
from harness.system.errors import HarnessError
from tests.synthetic import STUDY

NAN = math.nan
FALLING = [5.5 * 0.97**step for step in range(24)]


def case(losses: list[float], norms: list[float] | None = None, **known: Any) -> Case:
    norms = norms or [NAN if math.isnan(loss) else 1.0 for loss in losses]
    times: dict[int, float] = known.pop("times", {})
    rows = [
        {"step": step, "loss": loss, "grad_norm": norm, "_timestamp": times.get(step, float(step))}
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True))
    ]
    return Case(source="here", curve=curve_of(rows, "here"), **known)


def hpz(**changes: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8, **changes}}


def judged(curve: Case, release: str, config: dict[str, Any], **known: Any) -> str:
    exposed = Known(config=config, release=release, **known).exposures()
    return triage(
        Case(source="here", curve=curve.curve, hpz=True, exposed=exposed, silence=curve.silence)
    ).verdict


def test_every_rule_names_a_fault_and_a_sign_that_exist() -> None:
    known = {*SIGNS, "exposed", "no known fault"}
    assert all(rule.fault in FAULTS and rule.sign in known and rule.points and rule.reason for rule in RULES)
    assert NEXT.keys() == {*FAULTS, "nothing", "unrecognised"}


def test_a_sign_is_weighed_once_by_each_fault() -> None:
    pairs = [(rule.fault, rule.sign) for rule in RULES]
    assert len(pairs) == len(set(pairs))


SIGNS_OF: dict[str, tuple[Case, set[str]]] = {
    "healthy": (case(FALLING), set()),
    "one odd batch": (case([*FALLING[:9], 6.4, *FALLING[9:]]), set()),
    "not finite from the start": (case([NAN] * 6), {"broken at once", "stays broken"}),
    "not finite later": (case([*FALLING[:9], *[NAN] * 4]), {"broken later", "stays broken"}),
    "finite and not in turns": (case([5.5, NAN, 5.2, NAN, 5.1, NAN]), {"broken at once", "comes and goes"}),
    "climbing": (case([5.5, 5.4, 9, 12, 20, 35]), {"climbs"}),
    "gradients growing": (case(FALLING[:8], [1, 1, 4, 12, 14, 15, 13, 11]), {"gradient grows"}),
    "stuck with gradients": (case([5.0] * 8), {"stuck"}),
    "stuck without gradients": (case([11.93] * 8, [0.0] * 8), {"stuck", "no gradient"}),
    "zero": (case([0.0] * 8, [0.0] * 8), {"stuck", "no gradient", "zero loss"}),
    "flat": (case([5.5, 5.6, 5.4, 5.5, 5.6, 5.5, 5.4, 5.6, 5.5, 5.5, 5.6, 5.5]), {"does not learn"}),
    "first step": (case([9.0, 2.1, 2.0, 2.1, 2.0, 2.05, 1.9, 2.0]), {"first step too high"}),
}


@pytest.mark.parametrize("name", SIGNS_OF)
def test_a_curve_shows_these_signs_and_no_other(name: str) -> None:
    curve, signs = SIGNS_OF[name]
    assert curve_signs(curve).keys() == signs


def test_the_first_step_after_a_restart_is_compared_with_those_before() -> None:
    losses = [*FALLING[:8], 5.4, *FALLING[8:14]]
    assert "first step too high" not in curve_signs(case(losses))
    paused = case(losses, times={step: float(step) + 600 * (step >= 8) for step in range(len(losses))})
    assert curve_signs(paused)["first step too high"].startswith("step 8, the first after a restart, has 5.4")


def test_a_loss_stuck_at_the_logarithm_of_the_vocabulary_is_a_guess() -> None:
    stuck = case([math.log(152064)] * 6, [0.0] * 6, vocabulary=152064)
    assert "11.9321 is the logarithm of the vocabulary" in curve_signs(stuck)["uniform guess"]


def test_silence_is_measured_by_the_steps_before() -> None:
    assert "silent" not in curve_signs(case(FALLING, silence=15.0))
    assert curve_signs(case(FALLING, silence=25.0))["silent"] == "nothing was heard for 25 s"


def test_overflows_of_fp16_are_not_taken_for_a_race() -> None:
    norms = [math.inf, 1.0, math.inf, 1.0, *[1.0] * 20]
    assert triage(case(FALLING, norms)).verdict == "race"
    assert any("usual in fp16" in note for note in triage(case(FALLING, norms)).notes)
    assert triage(case(FALLING, norms, loss_scaling=True)).verdict == "nothing"


ALIGNED, UNALIGNED = (4096 * 4096, 4096), (4096 * 11008 + 1,)


def test_sizes_tell_the_race_from_the_missing_copy() -> None:
    curve = case([NAN] * 6)
    where = {"world_size": 16, "ranks_per_node": 8}
    assert judged(curve, "0.13.4", hpz(), numels=UNALIGNED, **where) == "missing copy"
    assert judged(curve, "0.13.4", hpz(), numels=ALIGNED, **where) == "race"


def test_a_release_without_the_fault_rules_it_out() -> None:
    curve = case([5.5, NAN, 5.2, NAN, 5.1, NAN])
    assert judged(curve, "0.13.4", hpz()) == "race"
    assert judged(curve, "0.19.8", hpz()) == "unrecognised"


def test_a_flat_loss_is_stale_weights_only_where_the_release_keeps_them() -> None:
    flat = SIGNS_OF["flat"][0]
    assert judged(flat, "0.13.1", hpz()) == "stale secondary"
    assert judged(flat, "0.19.8", hpz()) == "nothing"


def test_a_stuck_loss_is_offload_only_where_something_is_offloaded() -> None:
    stuck = SIGNS_OF["stuck without gradients"][0]
    assert judged(stuck, "0.16.2", hpz(offload_param={"device": "cpu"})) == "offload"
    assert judged(stuck, "0.16.2", hpz()) == "unrecognised"


def test_without_hpz_a_broken_curve_is_plain_instability() -> None:
    config = {"zero_optimization": {"stage": 3}}
    for name in ("not finite from the start", "not finite later", "climbing"):
        assert judged(SIGNS_OF[name][0], "0.13.4", config) == "plain instability"


def test_a_hang_is_a_hang_under_any_release() -> None:
    assert judged(case(FALLING, silence=900.0), "0.19.8", hpz()) == "hang"


def test_half_of_what_decides_leaves_faults_open_and_says_what_to_give() -> None:
    only_config = Known(config=hpz()).exposures()
    assert only_config["offload"].exposed == "no"
    assert (only_config["race"].exposed, only_config["race"].reason) == (
        "unknown",
        "give --release: it decides",
    )
    only_release = Known(release="0.19.8").exposures()
    assert only_release["race"].exposed == "no"
    assert only_release["offload"].reason == "give --config: it decides"
    assert Known().exposures() == {}


def run_of(variant: str, device: str = "virtual") -> Run:
    block = {"model": "toy", "variant": variant, "shape": "2x2-hpz2", "device": device}
    return Study.model_validate({**STUDY, "matrix": block, "baseline": {"variant": variant}}).runs[0]


@pytest.mark.usefixtures("made_up_patches")
def test_a_run_is_exposed_to_what_its_variant_brings_back() -> None:
    race = {
        variant: exposures_of_run(run_of(variant))["race"].exposed
        for variant in ("stock", "unordered", "fixed")
    }
    assert race == {"stock": "yes", "unordered": "yes", "fixed": "no"}
    reason = exposures_of_run(run_of("fixed"))["missing copy"].reason
    assert reason == "variant fixed: the new copy writes all"


@pytest.mark.usefixtures("made_up_patches")
def test_a_cpu_has_no_race() -> None:
    assert exposures_of_run(run_of("unordered", "cpu"))["race"].exposed == "no"


@pytest.mark.usefixtures("made_up_patches")
def test_a_run_that_was_ended_for_its_time_long_after_its_last_step_hung(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.create(run_of("fixed"))
    rows = [ours(step, loss, f"2026-01-01T00:00:{step:02}.000Z") for step, loss in enumerate(FALLING)]
    directory.steps_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for minute, verdict in ((1, "hang"), (0, "nothing")):
        directory.update_status(state="timed-out", ended_utc=f"2026-01-01T00:0{minute}:30.000Z")
        assert triage(open_case(tmp_path)).verdict == verdict


@pytest.mark.usefixtures("made_up_patches")
def test_a_run_without_a_first_step_hangs_after_five_minutes(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.create(run_of("fixed"))
    directory.update_status(state="running", started_utc="2026-01-01T00:00:00.000Z")
    started = datetime.fromisoformat("2026-01-01T00:00:00.000Z").timestamp()
    assert triage(open_case(tmp_path, now=started + 200)).verdict == "nothing"
    assert triage(open_case(tmp_path, now=started + 400)).verdict == "hang"


def ours(step: int, loss: float, utc: str) -> dict[str, Any]:
    return {"schema": 1, "step": step, "loss": loss, "grad_norm": 1.0, "nonfinite": None, "utc": utc}


def export(folder: Path, losses: list[float]) -> Path:
    file = folder / "export.csv"
    file.write_text("Step,train/loss\n" + "".join(f"{step},{loss}\n" for step, loss in enumerate(losses)))
    return file


def test_the_command_prints_the_fault_the_reasons_and_what_to_try(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(hpz()))
    options = ["--config", str(tmp_path / "ds.json"), "--release", "0.13.4", "--world-size", "16"]
    done = CliRunner().invoke(
        app, ["triage", str(export(tmp_path, [5.5, NAN, 5.2, NAN, 5.1, NAN])), *options]
    )
    assert done.exit_code == 0
    assert "This looks like: race." in done.stdout
    assert "comes and goes" not in done.stdout and "overlap_comm" in done.stdout


def test_the_command_says_plainly_that_nothing_is_wrong(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["triage", str(export(tmp_path, FALLING)), "--json"])
    record = json.loads(done.stdout)
    assert (record["verdict"], record["signs"]) == ("nothing", {})
    assert record["notes"] == ["judged by the curve alone; --config and --release rule faults out"]


def test_a_run_of_ours_needs_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(HarnessError, match="records its configuration and release"):
        CliRunner().invoke(app, ["triage", str(tmp_path), "--release", "0.13.4"], catch_exceptions=False)


def test_a_foreign_curve_may_come_without_anything_else(tmp_path: Path) -> None:
    assert open_case(export(tmp_path, FALLING)).exposed == {}
