"""Triage's signs and answers on curves made for one sign each; tests/deepspeed has runs that really have the faults."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.diagnose.cases import Case, Known, case_of, exposures_of_run, open_case
from harness.diagnose.curve import curve_of
from harness.diagnose.faults import table
from harness.diagnose.hints import SIGNS, curve_signs
from harness.diagnose.schema import FOLDER, MODELS, schema
from harness.diagnose.show import triage_lines
from harness.diagnose.signs import HARD
from harness.diagnose.triage import Triage, triage
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
    extra = known.pop("extra", {})
    return Case(source="here", curve=curve_of([{**row, **extra} for row in rows], "here"), **known)


def hpz(**changes: Any) -> dict[str, Any]:
    return {
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8, **changes},
    }


def judged(curve: Case, release: str | None, config: dict[str, Any], **known: Any) -> Triage:
    setup = Known(config=config, release=release, **known).setup()
    return triage(replace(case_of(curve.curve, setup, "here"), silence=curve.silence))


def test_every_sign_that_a_fault_counts_exists() -> None:
    assert {sign for fault in table() for sign in fault.shows} <= {*SIGNS, "no known fault"}
    assert all(points for fault in table() for points in fault.shows.values())


POLICY = {"reward": 1.0}
SIGNS_OF: dict[str, tuple[Case, set[str]]] = {
    "healthy": (case(FALLING), set()),
    "one odd batch": (case([*FALLING[:9], 6.4, *FALLING[9:]]), set()),
    "one huge batch": (case([*FALLING[:9], 50.0, *FALLING[9:]]), {"outlier"}),
    "not finite once": (case([*FALLING[:9], NAN, *FALLING[9:]]), {"broken later", "broken alone"}),
    "not finite from the start": (case([NAN] * 6), {"broken at once", "stays broken"}),
    "not finite later": (case([*FALLING[:9], *[NAN] * 4]), {"broken later", "stays broken"}),
    "infinite": (case([2.0, 2.0, 1.9, 1.9, math.inf, math.inf, math.inf]), {"broken later", "stays broken"}),
    "finite and not in turns": (case([5.5, NAN, 5.2, NAN, 5.1, NAN]), {"broken at once", "comes and goes"}),
    "NaN printed as 0": (case([2.1, 2.0, 0.0, 0.0]), {"broken later", "zero loss"}),
    "one line of 0": (case([3.5, 0.0], [100.0, math.inf]), {"broken at once"}),
    "climbing": (case([5.5, 5.4, 9, 12, 20, 35]), {"climbs"}),
    "another level": (case([*FALLING[:9], *[12 * 0.97**step for step in range(9)]]), {"new level"}),
    "undone by the first update": (case([2.3, 11.0, 11.1, 10.9, 11.0]), {"broken by the first update"}),
    "gradients growing": (case([5.0, 5.1, 5.0, 5.2, 5.1, 5.0], [1, 1, 1, 20, 30, 40]), {"gradient grows"}),
    "stuck with gradients": (case([5.0] * 8), {"stuck"}),
    "stuck without gradients": (case([11.5] * 8, [0.0] * 8), {"stuck", "no gradient"}),
    "stuck at a vocabulary": (case([11.9321] * 8, [0.0] * 8), {"stuck", "no gradient", "uniform guess"}),
    "printed alike": (case([0.6931] * 8, [1.1, 1.2, 0.9, 1.0, 1.1, 1.3, 1.2, 0.8]), set()),
    "learnt to nothing": (
        case([0.9, 0.1, 0.01, 0.001, 0.0002, 0.0, 0.0], [1, 0.1, 0.01, 0.001, 0, 0, 0]),
        set(),
    ),
    "policy": (case([0.0] * 8, [0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.2, 0.3]), set()),
    "policy by its columns": (case([0.0] * 8, extra=POLICY), set()),
    "policy without gradients": (case([0.0] * 8, [0.0] * 8, extra=POLICY), {"no gradient of a policy"}),
    "learning rate 0": (case([12.1, 12.0, 12.05, 12.0], extra={"learning_rate": 0.0}), {"learning rate 0"}),
    "absurd": (case([2409.0, 2300.0, 2500.0]), {"absurd loss"}),
    "large at first, and learnt": (case([2409.0, 1500, 900, 600, 400, 300]), set()),
    "flat": (case([5.5, 5.6, 5.4, 5.5, 5.6, 5.5, 5.4, 5.6, 5.5, 5.5, 5.6, 5.5]), {"does not learn"}),
    "first step": (case([9.0, 2.1, 2.0, 2.1, 2.0, 2.05, 1.9, 2.0]), {"first step too high"}),
}


@pytest.mark.parametrize("name", SIGNS_OF)
def test_a_curve_shows_these_signs_and_no_other(name: str) -> None:
    curve, signs = SIGNS_OF[name]
    of_course = {"zero from the first", "stays broken", "stuck"} if "zero" in " ".join(signs) else set()
    assert curve_signs(curve).keys() - of_course == signs


@pytest.mark.parametrize("norm", [1.0, math.sqrt(2)])
def test_a_gradient_that_stands_where_clipping_puts_nan_is_frozen(norm: float) -> None:
    assert "frozen gradient" in curve_signs(case([0.0] * 8, [norm] * 8))
    assert "frozen gradient" not in curve_signs(case(FALLING[:8], [1.0] * 8))


def test_the_first_step_after_a_restart_is_compared_with_those_before() -> None:
    losses = [*FALLING[:8], 5.4, *FALLING[8:14]]
    assert "first step too high" not in curve_signs(case(losses))
    paused = case(losses, times={step: float(step) + 600 * (step >= 8) for step in range(len(losses))})
    assert curve_signs(paused)["first step too high"].startswith("step 8, the first after a restart, has 5.4")


def test_a_restart_that_stays_worse_was_not_resumed() -> None:
    losses = [*FALLING[:8], *[9.0] * 6]
    paused = case(losses, times={step: float(step) + 600 * (step >= 8) for step in range(len(losses))})
    assert triage(paused).fault == "not resumed"
    assert triage(case(losses)).fault == "plain instability"


def test_a_gradient_that_is_nan_beside_a_sound_first_loss_is_of_the_first_backward() -> None:
    posted = case([0.87, 0.0, 0.0], [math.inf] * 3)
    assert (
        judged(posted, "0.18.9", {"bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}).fault
        == "first backward"
    )


def test_silence_is_measured_by_the_steps_before() -> None:
    assert "silent" not in curve_signs(case(FALLING, silence=15.0))
    assert curve_signs(case(FALLING, silence=25.0))["silent"] == "nothing was heard for 25 s"


STARTING = [math.inf, 1.0, math.inf, 1.0, *[1.0] * 20]


def test_overflows_of_fp16_are_a_matter_of_course_at_the_start() -> None:
    unknown = triage(case(FALLING, STARTING))
    assert unknown.verdict == "healthy"
    assert any("skipped in fp16" in note for note in unknown.notes)
    assert triage(case(FALLING, STARTING, loss_scaling=True)).verdict == "healthy"
    assert triage(case(FALLING, STARTING, loss_scaling=False)).verdict == "broken"


def test_overflows_without_end_are_none_that_a_loss_scale_explains() -> None:
    ending = [*[1.0] * 6, *[math.inf] * 18]
    in_fp16 = {**hpz(), "bf16": {"enabled": False}, "fp16": {"enabled": True}}
    assert judged(case(FALLING, ending), "0.13.4", in_fp16).fault == "fp16 overflow"
    assert triage(case(FALLING, ending)).verdict == "broken"
    in_bf16 = judged(case(FALLING, ending), "0.13.4", hpz())
    assert in_bf16.fault == "race"


ALIGNED, UNALIGNED = (4096 * 4096, 4096), (4096 * 11008 + 1,)


def test_sizes_tell_the_race_from_the_missing_copy() -> None:
    curve = case([NAN] * 6)
    where = {"world_size": 16, "ranks_per_node": 8}
    assert judged(curve, "0.13.4", hpz(), numels=UNALIGNED, **where).fault == "missing copy"
    assert judged(curve, "0.13.4", hpz(), numels=ALIGNED, **where).fault == "race"


def test_a_release_without_the_fault_rules_it_out() -> None:
    curve = case([5.5, NAN, 5.2, NAN, 5.1, NAN])
    assert judged(curve, "0.13.4", hpz()).fault == "race"
    newest = judged(curve, "0.19.8", hpz())
    assert newest.fault != "race"
    assert any(
        "0.19.8 does not have it" in (one.ruled_out or "") for one in newest.findings if one.fault == "race"
    )


def test_no_fault_of_settings_is_named_by_a_curve_alone() -> None:
    found = triage(case([0.0] * 10, [0.0] * 10))
    assert (found.verdict, found.fault, found.possible[0]) == ("broken", "", "offload")
    assert found.question.startswith("Which ZeRO stage and is hpZ on (zero_hpz_partition_size above 1)?")
    assert found.next[0] == found.question


def test_the_question_is_for_what_is_missing() -> None:
    assert judged(case([2.1, 2.0, NAN, NAN]), None, hpz()).question.startswith("Which DeepSpeed release?")
    stage2 = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 2, "overlap_comm": True}}
    found = judged(case([NAN] * 6), "0.19.0", stage2)
    assert (found.fault, found.sure) == ("several producers", "possible")
    assert "is torch.compile on?" in found.question


def test_a_healthy_curve_of_an_exposed_setup_is_at_risk_and_not_well() -> None:
    found = judged(case(FALLING), "0.13.4", hpz())
    assert (found.verdict, found.fault) == ("at risk", "race")
    assert found.headline == "No sign in 24 steps, but at risk: GPUs read weights too early."
    assert not any("nothing to do" in step for step in found.next)
    assert judged(case(FALLING), "0.19.8", hpz()).verdict == "healthy"


def test_few_steps_are_too_few_to_judge() -> None:
    found = judged(case([2.0]), "0.13.4", hpz())
    assert found.headline == "Too short to judge: 1 step. First: give more of the log."
    assert "the setup is at risk of race: GPUs read weights too early" in found.notes


def test_a_soft_sign_names_only_what_the_setup_may_have() -> None:
    first = SIGNS_OF["first step"][0]
    assert judged(first, "0.16.9", hpz()).fault == "dirty after load"
    assert judged(first, "0.16.9", {"zero_optimization": {"stage": 3}}).verdict == "healthy"
    assert triage(first).verdict == "healthy"
    flat = SIGNS_OF["flat"][0]
    assert judged(flat, "0.13.1", hpz()).fault == "stale secondary"
    assert judged(flat, "0.19.8", hpz()).verdict == "healthy"


def test_a_stuck_loss_is_offload_only_where_something_is_offloaded() -> None:
    stuck = SIGNS_OF["stuck without gradients"][0]
    assert judged(stuck, "0.16.2", hpz(offload_param={"device": "cpu"})).fault == "offload"
    assert judged(stuck, "0.16.2", hpz()).fault == "not learning"


def test_without_hpz_a_broken_curve_is_plain_instability() -> None:
    config = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}
    for name in ("not finite later", "climbing"):
        assert judged(SIGNS_OF[name][0], "0.19.8", config).fault == "plain instability"
    assert not any("hpZ" in step for step in judged(SIGNS_OF["climbing"][0], "0.19.8", config).next)


def test_a_hang_is_a_hang_under_any_release() -> None:
    assert judged(case(FALLING, silence=900.0), "0.19.8", hpz()).fault == "stopped"


def test_an_error_message_is_believed() -> None:
    line = "AssertionError: ZeRO parameter intra parallel group is already initialized"
    curve = replace(case(FALLING[:2]).curve, errors=(line,))
    found = triage(Case(source="here", curve=curve))
    assert (found.fault, found.sure) == ("second model", "certain")


def test_evaluations_are_judged_beside_training_and_alone() -> None:
    rows: list[dict[str, Any]] = [{"step": step, "loss": loss} for step, loss in enumerate(FALLING)]
    both = curve_of([*rows, {"step": 23, "eval_loss": 5.6}], "here")
    kept = Known(config=hpz(), release="0.13.1").setup()
    assert triage(case_of(both, kept, "here")).fault == "stale secondary"
    alone = curve_of([{"eval_loss": 2.11, "eval_accuracy": 0.0}], "here")
    found = triage(case_of(alone, Known(config=hpz(), release="0.19.8").setup(), "here"))
    assert found.headline.startswith("Too short to judge: 1 evaluation and no training loss")
    assert "an accuracy of exactly 0" in found.signs["evaluation only"]


@pytest.mark.parametrize("name", SIGNS_OF)
def test_every_answer_fits_80_columns_and_its_schema(name: str) -> None:
    for found in (triage(SIGNS_OF[name][0]), judged(SIGNS_OF[name][0], "0.13.4", hpz())):
        assert max(map(len, triage_lines(found))) <= 80
        jsonschema.validate(found.model_dump(mode="json"), json.loads(schema("triage.schema.json")))
        hard = found.signs.keys() & HARD.keys()
        assert not hard or not any("nothing to do" in step for step in found.next)


@pytest.mark.parametrize("file", MODELS)
def test_the_schema_that_is_committed_is_the_records_own(file: str) -> None:
    assert (FOLDER / file).read_text() == schema(file), "python -m harness.diagnose.schema"


def run_of(variant: str, device: str = "virtual") -> Run:
    block = {"model": "toy", "variant": variant, "shape": "2x2-hpz2", "device": device}
    return Study.model_validate({**STUDY, "matrix": block, "baseline": {"variant": variant}}).runs[0]


@pytest.mark.usefixtures("made_up_patches")
def test_a_run_is_exposed_to_what_its_variant_brings_back() -> None:
    race = {
        variant: exposures_of_run(run_of(variant))["race"].exposed
        for variant in ("stock", "unordered", "fixed")
    }
    assert race == {"stock": "yes", "unordered": "yes", "fixed": "safe by setting"}
    reason = exposures_of_run(run_of("fixed"))["missing copy"].reason
    assert reason == "variant fixed: the new copy writes all"


@pytest.mark.usefixtures("made_up_patches")
def test_a_cpu_has_no_race() -> None:
    assert exposures_of_run(run_of("unordered", "cpu"))["race"].exposed == "safe by setting"


@pytest.mark.usefixtures("made_up_patches")
def test_a_run_that_was_ended_for_its_time_long_after_its_last_step_hung(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.create(run_of("fixed"))
    rows = [ours(step, loss, f"2026-01-01T00:00:{step:02}.000Z") for step, loss in enumerate(FALLING)]
    directory.steps_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for minute, fault in ((1, "stopped"), (0, "")):
        directory.update_status(state="timed-out", ended_utc=f"2026-01-01T00:0{minute}:30.000Z")
        assert triage(open_case(tmp_path)).fault == fault


@pytest.mark.usefixtures("made_up_patches")
def test_a_run_without_a_first_step_hangs_after_five_minutes(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.create(run_of("fixed"))
    directory.update_status(state="running", started_utc="2026-01-01T00:00:00.000Z")
    started = datetime.fromisoformat("2026-01-01T00:00:00.000Z").timestamp()
    assert triage(open_case(tmp_path, now=started + 200)).verdict == "too short"
    assert triage(open_case(tmp_path, now=started + 400)).fault == "stopped"


def ours(step: int, loss: float, utc: str) -> dict[str, Any]:
    return {"schema": 1, "step": step, "loss": loss, "grad_norm": 1.0, "nonfinite": None, "utc": utc}


def export(folder: Path, losses: list[float]) -> Path:
    file = folder / "export.csv"
    file.write_text("Step,train/loss\n" + "".join(f"{step},{loss}\n" for step, loss in enumerate(losses)))
    return file


def test_the_command_says_in_its_first_line_what_is_wrong_how_sure_and_what_first(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(hpz()))
    options = ["--config", str(tmp_path / "ds.json"), "--release", "0.13.4", "--world-size", "16"]
    done = CliRunner().invoke(
        app, ["triage", str(export(tmp_path, [5.5, NAN, 5.2, NAN, 5.1, NAN])), *options]
    )
    assert done.exit_code == 0
    first = done.stdout.splitlines()[0]
    assert first == "Likely: GPUs read weights too early. First: upgrade DeepSpeed to 0.13.5."
    assert "overlap_comm" in done.stdout and "hpz race --script train.py" in done.stdout


def test_the_command_says_plainly_that_nothing_is_wrong(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["triage", str(export(tmp_path, FALLING)), "--json"])
    record = json.loads(done.stdout)
    assert (record["verdict"], record["signs"]) == ("healthy", {})
    assert record["headline"] == "No sign of a fault in 24 steps."
    assert "judged by the curve alone; a fault of hpZ is possible only where hpZ is on" in record["notes"]


def test_a_run_of_ours_needs_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(HarnessError, match="records its configuration and release"):
        CliRunner().invoke(app, ["triage", str(tmp_path), "--release", "0.13.4"], catch_exceptions=False)


def test_a_foreign_curve_may_come_without_anything_else(tmp_path: Path) -> None:
    assert open_case(export(tmp_path, FALLING)).exposed == {}


def test_overflows_that_alternate_are_believed_only_where_fp16_is_known() -> None:
    alternating = [1.0, math.inf] * 8
    losses = FALLING[:16]
    assert triage(case(losses, alternating)).verdict == "broken"
    assert triage(case(losses, alternating, loss_scaling=True)).verdict == "healthy"


def test_what_is_sound_in_fp16_alone_asks_for_the_precision() -> None:
    found = triage(case(FALLING, STARTING))
    assert found.headline == "No sign of a fault in 24 steps, if they were trained in fp16."
    assert found.question == "Does it train in fp16? Give --config ds_config.json."
    assert not any("nothing to do" in step for step in found.next)


def test_a_dozen_losses_that_jump_by_half_of_themselves_are_too_few_to_call_sound() -> None:
    found = triage(case([12.0, 14.4, 5.3, 7.6, 4.6, 9.2, 6.0, 6.4, 5.0, 0.3, 1.5, 2.6]))
    assert found.verdict == "too short"
    assert found.headline.startswith("Too short to judge: 12 steps that jump about.")


def test_a_dozen_losses_that_only_fall_are_sound_however_fast() -> None:
    assert triage(case([2.0, 1.55, 0.58, 0.32, 0.13, 0.09])).verdict == "healthy"


def test_a_log_that_ends_while_its_loss_climbs_is_not_called_sound() -> None:
    found = triage(case([6.37, 6.60, 7.31, 9.12, 10.24]))
    assert found.verdict == "fault" and "the loss climbs" in found.signs["climbs"]


def test_a_gradient_that_broke_before_the_loss_is_told_with_it() -> None:
    found = triage(case([1.8, 1.7, 1.6, 9.9, NAN], [3.0, 2.9, 41.5, NAN, NAN]))
    assert "the gradient norm from step 3" in found.signs["broken later"] or "step 3" in found.headline


def test_a_single_nan_is_said_to_be_alone_and_not_to_last() -> None:
    found = triage(case([*FALLING[:9], NAN, *FALLING[9:]]))
    assert found.signs["broken later"] == "the loss is not finite at step 9 alone; all 15 after it are sound"
    assert found.headline == "The loss is not finite at step 9 alone. See the question below."
    points = {one.fault: one.points for one in found.findings}
    assert points["nothing to predict"] > 0 > points["plain instability"]


def test_several_nans_are_told_by_the_first() -> None:
    found = triage(case([*FALLING[:9], NAN, *FALLING[9:12], NAN, *FALLING[12:]]))
    assert found.signs["broken later"] == "the loss is not finite, first at step 9; before, all is finite"


def test_one_huge_loss_is_remarked_on_and_no_fault() -> None:
    found = triage(case([*FALLING[:9], 50.0, *FALLING[9:]]))
    assert found.verdict == "healthy"
    assert "step 9 has a loss of 50, those around it 4.25: an odd batch, perhaps" in found.notes


def printed(folder: Path, prefix: str, first: str = "") -> Path:
    lines = [
        f"{prefix}step: {step}  loss: {loss}"
        for step, loss in enumerate([*FALLING[:9], NAN, *FALLING[9:]], 1)
    ]
    (folder / "train.log").write_text("\n".join([first, *lines]) + "\n")
    return folder / "train.log"


def test_what_needs_deepspeed_stands_last_for_the_log_of_another_framework(tmp_path: Path) -> None:
    def tables(found: Triage) -> list[str]:
        kinds = {fault.id: fault.table for fault in table()}
        return [kinds[one.fault] for one in found.findings if one.ruled_out is None and one.points > 0]

    foreign = triage(open_case(printed(tmp_path, "[titan] 2026-01-01 00:00:00,000 - root - INFO - ")))
    assert tables(foreign)[0] == "training" and tables(foreign)[-1] != "training"
    assert foreign.question.startswith("Is DeepSpeed under torchtitan here?")
    ours = triage(open_case(printed(tmp_path, "[titan] ", "initializing deepspeed distributed")))
    assert tables(ours)[0] != "training" and ours.question.startswith("Which ZeRO stage")


def test_an_empty_file_is_said_to_be_empty_and_accuses_nobody(tmp_path: Path) -> None:
    (tmp_path / "train.log").touch()
    found = triage(open_case(tmp_path / "train.log"))
    assert (found.verdict, found.signs) == ("too short", {})
    assert found.headline == "Too short to judge: it is empty. First: name the file that is written to."
    assert any("py-spy" in step for step in found.next)


@pytest.mark.parametrize(
    "words", [["triage", ""], ["triage", "x.csv", "--against", " "], ["compare", "x.csv", ""]]
)
def test_an_empty_path_is_refused(words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "the path is empty (an unset shell variable?)" in done.output


def test_a_run_is_not_looked_for_where_none_has_a_name(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no run 'nope'; it holds one, without a name; leave out --run"):
        CliRunner().invoke(
            app, ["triage", str(export(tmp_path, FALLING)), "--run", "nope"], catch_exceptions=False
        )


def test_a_second_curve_of_several_runs_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("Step,a - train/loss,b - train/loss\n1,2.0,2.1\n2,1.9,2.0\n")
    words = ["triage", str(export(tmp_path, FALLING)), "--against", str(tmp_path / "two.csv")]
    with pytest.raises(HarnessError, match=r"several runs .a, b.; give --against a file of one run"):
        CliRunner().invoke(app, words, catch_exceptions=False)
