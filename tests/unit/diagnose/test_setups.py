"""One setup from configuration, log and command line, for every command alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from harness.cli.diagnose import doctor, triage
from harness.diagnose import Setup
from harness.diagnose.curve import Told
from harness.diagnose.read import Given, parameter_sizes, read_setup, setups
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

RUN = CliRunner()
LLAMA = REPOSITORY / "experiments/models/llama2-7b.yaml"


def setup(folder: Path, config: Any, told: Told | None = None, **given: Any) -> Setup:
    file = folder / "ds.json"
    file.write_text(json.dumps(config))
    return read_setup(file, Given(**given), told)


def zero(**keys: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8, **keys}}


def test_the_command_line_goes_before_the_log_and_the_log_before_nothing(tmp_path: Path) -> None:
    told = Told(release="0.13.2", world_size=16, torch="2.1.2")
    known = setup(tmp_path, zero(), told, world_size=32)
    assert (known.release, known.world_size, known.torch) == ("0.13.2", 32, "2.1.2")
    assert known.release_note == "DeepSpeed 0.13.2 is what the log says"
    assert setup(tmp_path, zero(), told, release="0.14.0").release == "0.14.0"
    assert setup(tmp_path, zero()).release is None


def test_a_log_that_prints_its_configuration_needs_no_other() -> None:
    known = read_setup(None, told=Told(config=zero()))
    assert known.hpz == 8 and known.has_config
    assert "the configuration is the one that the log prints" in map(str, known.remarks)
    assert not read_setup(None).has_config


def test_a_log_is_a_configuration_where_deepspeed_prints_it(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    stamp = "[2024-09-08 23:02:58,990] [INFO] [config.py:989:print]"
    log.write_text(
        f"{stamp} DeepSpeed info: version=0.13.4, git-hash=unknown\n{stamp} world_size ......... 16\n"
        f"{stamp}   json = {json.dumps(zero(), indent=4)}\n{stamp} started\n"
    )
    known = read_setup(log)
    assert (known.release, known.world_size, known.hpz) == ("0.13.4", 16, 8)
    assert "train.log is read as a log" in map(str, known.remarks)
    assert read_setup(log, told=Told(release="0.14.0", config={})).release == "0.14.0"
    log.write_text(f"{stamp} nothing of a configuration\n")
    with pytest.raises(HarnessError, match=r"train\.log"):
        read_setup(log)


def test_precision_is_known_where_something_says_it(tmp_path: Path) -> None:
    auto = {"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}
    assert setup(tmp_path, {"bf16": {"enabled": True}}).dtype == "bf16"
    assert setup(tmp_path, {}).dtype == "fp32"
    assert setup(tmp_path, auto).dtype is None
    assert setup(tmp_path, auto, trainer_args="--fp16 True").dtype == "fp16"
    assert setup(tmp_path, auto, Told(dtype="bf16")).dtype == "bf16"


def test_auto_that_nobody_fills_in_is_deepspeeds_default(tmp_path: Path) -> None:
    known = setup(tmp_path, zero(zero_hpz_partition_size="auto", overlap_comm="auto"))
    assert (known.hpz, known.overlap) == (1, True)
    assert "zero_optimization.zero_hpz_partition_size" in {one.key for one in known.remarks}


def test_sizes_that_the_trainer_takes_from_the_model_are_taken_from_it(tmp_path: Path) -> None:
    known = setup(tmp_path, zero(stage3_param_persistence_threshold="auto"), model=LLAMA)
    assert known.zero["stage3_param_persistence_threshold"] == 40960
    assert max(known.numels or ()) == 32000 * 4096


def test_hpz_that_is_written_where_it_has_no_effect_is_told_apart_from_hpz_that_is_on(tmp_path: Path) -> None:
    known = setup(tmp_path, zero(stage=2))
    assert (known.hpz, known.hpz_asked) == (1, 8)


def test_overlap_is_on_by_default_for_stage_3_alone(tmp_path: Path) -> None:
    assert setup(tmp_path, zero()).overlap is True
    assert setup(tmp_path, zero(stage=2)).overlap is False


def test_a_script_besides_says_what_no_configuration_does(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import torch\nmodel = torch.compile(model)\n")
    known = setup(tmp_path, zero(), script=tmp_path / "train.py")
    assert known.facts == {"compile"} and known.facts_read


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"ds.json: config: zero_optimization.zero_hpz_partition_size=8 must"
    ):
        setup(tmp_path, zero(), world_size=12)


def test_sizes_are_given_once_and_as_a_list() -> None:
    with pytest.raises(HarnessError, match=r"--model and --sizes both give parameter sizes"):
        read_setup(None, Given(model=LLAMA, sizes="4096"))
    with pytest.raises(HarnessError, match=r"--sizes: '4096by4' is not a list such as"):
        parameter_sizes("4096by4")


def test_the_installed_release_is_named_where_it_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(zero()))
    monkeypatch.setattr(setups, "installed_release", lambda: "0.19.8")
    note = read_setup(file, assume_installed=True).release_note
    assert (
        note == "no --release was given: judged is the DeepSpeed installed here, 0.19.8, not the training's"
    )
    monkeypatch.setattr(setups, "installed_release", lambda: None)
    with pytest.raises(HarnessError, match=r"name a release, for example --release 0.13.4"):
        read_setup(file, assume_installed=True)


@pytest.fixture
def app() -> typer.Typer:
    application = typer.Typer()
    application.command()(doctor)
    application.command()(triage)
    return application


def test_doctor_says_what_is_odd_in_a_configuration(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(
        json.dumps({"zero_optimization": {"stage": 3, "zero_hpz_partion_size": 8}})
    )
    said = RUN.invoke(
        app, ["doctor", "--config", str(tmp_path / "ds.json"), "--release", "0.13.4", "--json"]
    ).stdout
    assert "did you mean zero_optimization.zero_hpz_partition_size?" in said


def test_triage_reads_standard_input_and_takes_what_the_log_says(app: typer.Typer) -> None:
    config = json.dumps({"bf16": {"enabled": True}, **zero()})
    log = f"DeepSpeed info: version=0.13.4, git-hash=x\njson = {config}\n" + "".join(
        f"{{'loss': {loss}, 'grad_norm': {norm}, 'step': {step}}}\n"
        for step, (loss, norm) in enumerate([(2.5, 1.0), ("nan", "nan"), ("nan", "nan"), ("nan", "nan")], 1)
    )
    done = RUN.invoke(app, ["triage", "-", "--json"], input=log)
    found = json.loads(done.stdout)
    assert found["source"] == "standard input"
    assert "race" in (found["verdict"], found.get("fault"))


def test_triage_judges_each_of_several_runs_or_the_one_that_is_named(
    app: typer.Typer, tmp_path: Path
) -> None:
    (tmp_path / "two.csv").write_text(
        "Step,a - loss,b - loss\n" + "".join(f"{s},{3 - s / 10},nan\n" for s in range(1, 9))
    )
    both = json.loads(RUN.invoke(app, ["triage", str(tmp_path / "two.csv"), "--json"]).stdout)
    assert [one["source"].rpartition(": ")[2] for one in both] == ["a", "b"]
    one = json.loads(RUN.invoke(app, ["triage", str(tmp_path / "two.csv"), "--run", "a", "--json"]).stdout)
    assert one["source"].endswith(": a")
    with pytest.raises(HarnessError, match=r"--run: .* holds no run 'c'; Valid: a, b"):
        RUN.invoke(app, ["triage", str(tmp_path / "two.csv"), "--run", "c"], catch_exceptions=False)
