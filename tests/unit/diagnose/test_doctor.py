"""`hpz doctor` and `hpz patch` as commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import typer
from typer.testing import CliRunner

from harness.cli.diagnose import doctor as doctor_verb
from harness.cli.patch import app as patch_app
from harness.diagnose import doctor
from harness.diagnose.schema import schema
from harness.system.errors import HarnessError
from harness.variants import installed_release, release_source, supported_releases

RUN = CliRunner()
CONFIG = {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8}}


@pytest.fixture
def app() -> typer.Typer:
    application = typer.Typer()
    application.command()(doctor_verb)
    return application


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps(CONFIG))
    return path


def test_json_names_machine_and_exposures(app: typer.Typer, config: Path) -> None:
    arguments = [
        "--config",
        str(config),
        "--world-size",
        "48",
        "--ranks-per-node",
        "8",
        "--release",
        "0.13.4",
        "--json",
    ]
    found = json.loads(RUN.invoke(app, arguments).stdout)
    assert found["release"] == "0.13.4"
    assert found["machine"]["cores"] >= 1
    assert {one["fault"]: one["exposed"] for one in found["exposures"]}["race"] == "yes"


def words(output: str) -> str:
    """The output without its line breaks."""
    return " ".join(output.split())


def test_the_first_line_is_for_everybody_and_all_fit_80_columns(app: typer.Typer, config: Path) -> None:
    arguments = [
        "--config",
        str(config),
        "--release",
        "0.13.4",
        "--world-size",
        "16",
        "--ranks-per-node",
        "8",
    ]
    lines = RUN.invoke(app, arguments).stdout.splitlines()
    assert lines[0] == "At risk: GPUs read weights too early. First: upgrade DeepSpeed to 0.13.5."
    assert max(map(len, lines)) <= 80


def test_a_configuration_may_be_given_as_it_is(app: typer.Typer, config: Path) -> None:
    named = RUN.invoke(app, ["--config", str(config), "--release", "0.13.4"])
    assert RUN.invoke(app, [str(config), "--release", "0.13.4"]).stdout == named.stdout
    with pytest.raises(HarnessError, match="both name a configuration; give one of them"):
        RUN.invoke(app, [str(config), "--config", str(config)], catch_exceptions=False)


def test_the_command_that_starts_a_training_says_what_a_script_of_it_would(
    app: typer.Typer, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    (config.parent / "train.py").write_text("import deepspeed\n")
    words = ["deepspeed", "--num_nodes", "2", "--num_gpus", "8", "train.py", "--deepspeed", config.name]
    printed = RUN.invoke(app, ["--release", "0.13.4", "--", *words]).stdout
    assert printed.startswith("At risk: GPUs read weights too early.") and "16 ranks" in printed


def test_answers_without_a_question_are_refused(app: typer.Typer) -> None:
    with pytest.raises(HarnessError, match="which configuration"):
        RUN.invoke(app, ["--release", "0.13.4"], catch_exceptions=False)


def test_what_others_reported_and_nobody_here_could_show_is_called_so(app: typer.Typer, config: Path) -> None:
    offloaded = {"stage": 3, "zero_hpz_partition_size": 8, "offload_param": {"device": "cpu"}}
    config.write_text(json.dumps({"zero_optimization": offloaded}))
    first = RUN.invoke(app, ["--config", str(config), "--release", "0.19.8"]).stdout.splitlines()[0]
    assert first == "Reported by others: hpZ with CPU offload gives zeros. First: turn hpZ or offload off."


def test_what_is_set_and_has_no_effect_comes_first(app: typer.Typer, config: Path) -> None:
    config.write_text(json.dumps({"zero_optimization": {"stage": 2, "zero_hpz_partition_size": 8}}))
    first = RUN.invoke(app, ["--config", str(config), "--release", "0.16.4"]).stdout.splitlines()[0]
    assert first == 'No effect: hpZ is set but not in effect. First: set "stage": 3, or drop the key.'


def test_what_nobody_else_has_met_is_no_headline(app: typer.Typer, config: Path) -> None:
    config.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    done = RUN.invoke(app, ["--config", str(config), "--release", "0.13.4", "--world-size", "16"]).stdout
    assert done.startswith("No confirmed fault applies here; ")
    assert "optimizer step: weights may be gathered a step old" in words(done)


def test_the_json_is_what_its_schema_says(app: typer.Typer, config: Path) -> None:
    for arguments in ([], ["--config", str(config), "--release", "0.12.6", "--world-size", "16"]):
        found = json.loads(RUN.invoke(app, [*arguments, "--json"]).stdout)
        jsonschema.validate(found, json.loads(schema("doctor.schema.json")))


def test_a_fault_is_explained_on_a_page(app: typer.Typer) -> None:
    page = RUN.invoke(app, ["--explain", "missing-copy"]).stdout
    assert page.startswith(
        "### missing copy\n\nSome weights are never copied. First: upgrade DeepSpeed to 0.13.5."
    )
    assert "- Releases: 0.10.0 to 0.13.4." in page


def test_an_entry_gives_reason_and_way_out(app: typer.Typer, config: Path) -> None:
    arguments = [
        "--config",
        str(config),
        "--release",
        "0.13.4",
        "--sizes",
        "4096x4096,4096",
        "--world-size",
        "48",
    ]
    text = words(RUN.invoke(app, arguments).stdout)
    assert "2 of 2 parameters" in text
    assert "upgrade to 0.13.5 or later" in text


def test_what_may_apply_says_how_it_would_show_and_where_it_was_reported(
    app: typer.Typer, config: Path
) -> None:
    arguments = ["--config", str(config), "--world-size", "48", "--release", "0.16.4"]
    may = words(RUN.invoke(app, arguments).stdout).partition("It may apply")[2]
    assert "seen as: The first loss, or the first after a restart, is that of other weights" in may
    assert "seen as: An error before or in the first step: `narrow(): length must be non-negative`" in may
    assert "source: deepspeedai/DeepSpeed#7606" in may
    assert "an idle expert stops all: make MoE blocks leaf modules" in may


def test_a_usual_threshold_above_the_one_size_given_is_not_blamed(app: typer.Typer, config: Path) -> None:
    arguments = ["--config", str(config), "--world-size", "2048", "--release", "0.15.2", "--sizes", "48"]
    output = words(RUN.invoke(app, arguments).stdout)
    assert "a parameter of 48 elements: training stops with an error" in output
    assert "stays gathered" not in output


def test_what_fp16_may_do_without_a_fault_is_said_where_it_is_trained_in(
    app: typer.Typer, config: Path
) -> None:
    sentence = "in fp16 the first steps may overflow and be skipped"
    assert sentence not in words(RUN.invoke(app, ["--config", str(config)]).stdout)
    config.write_text(json.dumps(CONFIG | {"fp16": {"enabled": True}}))
    assert sentence in words(RUN.invoke(app, ["--config", str(config)]).stdout)


def test_what_is_assumed_of_an_unknown_release_is_said(app: typer.Typer, config: Path) -> None:
    arguments = ["--config", str(config), "--release", "0.20.1"]
    sentence = "0.20.1 is newer than the newest known release, 0.19.8; judged as that"
    assert sentence in words(RUN.invoke(app, arguments).stdout)
    assert sentence in json.loads(RUN.invoke(app, [*arguments, "--json"]).stdout)["notes"]


def test_without_a_configuration_only_the_machine(app: typer.Typer) -> None:
    text = RUN.invoke(app, [], env={"COLUMNS": "120"}).stdout
    assert "This machine" in text
    assert "To examine a training: hpz doctor --config" in words(text)


def test_nothing_at_hand_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    here = doctor.machine()
    assert (here.gpus, here.slurm, here.chromium, here.git) == ([], None, None, None)


def test_no_release_at_hand_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_release", lambda: None)
    assert doctor.deepspeed_support().startswith("not installed; supported: 0.10.0–0.10.3, ")


def test_unsupported_installation_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_release", lambda: "0.20.1")
    assert "0.20.1 is newer than all that are pinned" in doctor.deepspeed_support()


# --- hpz patch -----------------------------------------------------------------------------------------------------

needs_deepspeed = pytest.mark.skipif(
    installed_release() not in supported_releases(), reason="no supported DeepSpeed"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@needs_deepspeed
def test_path_prints_only_the_folder(cache: Path) -> None:
    lines = RUN.invoke(patch_app, ["path", "event"]).stdout.splitlines()
    assert len(lines) == 1
    assert (Path(lines[0]) / "deepspeed" / "__init__.py").is_file()


@needs_deepspeed
def test_show_prints_the_lines(cache: Path) -> None:
    assert (
        "+                param.ds_secondary_ready_event.record()"
        in RUN.invoke(patch_app, ["show", "event"]).stdout
    )
    assert json.loads(RUN.invoke(patch_app, ["show", "fixed", "--json"]).stdout)["diff"] == ""


def test_list_names_every_variant() -> None:
    found = json.loads(RUN.invoke(patch_app, ["list", "--release", "0.13.4", "--json"]).stdout)
    assert len(found["variants"]) == 36
    assert "base-cpu-without-intel.patch" in found["variants"][0]["patches"]
    text = RUN.invoke(patch_app, ["list", "--release", "0.19.8"], env={"COLUMNS": "200"}).stdout
    assert "Pinned releases: 0.10.0–0.10.3" in text


@needs_deepspeed
def test_verify_says_what_it_proved(cache: Path) -> None:
    text = RUN.invoke(patch_app, ["verify", "event", "fixed", "--no-imports"]).stdout
    assert len(text.splitlines()) == 2
    assert "hashes and syntax tree as they must be" in text
    found = json.loads(RUN.invoke(patch_app, ["verify", "event", "--no-imports", "--json"]).stdout)
    assert found[0]["loaded"] is None


def test_releases_are_listed_with_their_families() -> None:
    rows = json.loads(RUN.invoke(patch_app, ["list", "--releases", "--json"]).stdout)
    assert sum(len(row["releases"]) for row in rows) == len(supported_releases())
    assert rows[0]["own"] == {"copy": "old", "order": "none", "step": "none", "load": "none"}


@pytest.mark.slow
@needs_deepspeed
def test_adopt_says_that_a_release_is_as_pinned() -> None:
    release = str(installed_release())
    found = RUN.invoke(patch_app, ["adopt", release, "--check"]).stdout
    assert found.startswith(f"{release}: family 0.19.5, every variant proved, as pinned; ")


@pytest.mark.slow
@needs_deepspeed
def test_a_build_that_is_not_known_is_said_to_be_unpinned(cache: Path) -> None:
    """As a vendor's: a file that patches touch is not the one of the release."""
    source = cache / "vendor" / "deepspeed"
    shutil.copytree(release_source(str(installed_release())), source)
    stage3 = source / "runtime" / "zero" / "stage3.py"
    stage3.write_text(stage3.read_text() + "\nVENDOR = True\n")
    refused = RUN.invoke(patch_app, ["path", "event", "--source", str(source)])
    assert "--unpinned" in str(refused.exception)
    done = RUN.invoke(patch_app, ["path", "event", "--source", str(source), "--unpinned"])
    assert "unpinned: family 0.19.5; from 0.19.8 it differs in runtime/zero/stage3.py" in done.stderr
    assert len(done.stdout.splitlines()) == 1
