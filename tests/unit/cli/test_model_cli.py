"""`hpz model`, and the verbs that take any Hugging Face configuration where they took a model file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.study import load_model_file
from harness.system.errors import HarnessError

CONFIG = {"model_type": "gpt2", "vocab_size": 512, "n_positions": 64, "n_embd": 30, "n_layer": 2, "n_head": 2}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of somebody's model, in the current one."""
    monkeypatch.setenv("HPZ_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(CONFIG))
    return Path("tiny")


def hpz(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_add_writes_a_file_that_a_study_can_name(folder: Path) -> None:
    said = hpz("model", "add", folder)
    model = load_model_file("models/tiny.yaml")
    assert f"models/tiny.yaml: {model.parameters:,} parameters (counted" in said
    assert "counted from the shapes" in Path("models/tiny.yaml").read_text()


def test_add_checks_the_published_count(folder: Path) -> None:
    with pytest.raises(HarnessError, match="tiny: parameters: 5 stated, but the shapes give"):
        hpz("model", "add", folder, "--parameters", 5)
    counted = json.loads(hpz("model", "show", folder, "--json"))["parameters"]
    assert "as published" in hpz("model", "add", folder, "--parameters", counted)


def test_add_keeps_a_file_that_says_otherwise(folder: Path) -> None:
    Path("models").mkdir()
    Path("models/tiny.yaml").write_text("source: mine\n")
    with pytest.raises(HarnessError, match=r"models/tiny.yaml is there and says otherwise; delete it"):
        hpz("model", "add", folder)


def test_add_makes_a_toy_under_its_own_name(folder: Path) -> None:
    hpz("model", "add", folder, "--scale", 32, "--unaligned", "--output", "toy.yaml")
    scale = load_model_file("toy.yaml").scale
    assert scale is not None and (scale.of, scale.width, scale.unaligned) == ("tiny", 32, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--unaligned",), "--unaligned: only a toy can be; give --scale with it"),
        (("--scale", 32, "--parameters", 5), "--parameters: no number is published for a toy"),
    ],
)
def test_options_that_go_ill_together_are_refused(
    folder: Path, words: tuple[object, ...], message: str
) -> None:
    with pytest.raises(HarnessError, match=message):
        hpz("model", "add", folder, *words)


def test_a_model_file_needs_not_be_added_again(folder: Path) -> None:
    with pytest.raises(
        HarnessError, match="llama2-7b is a model file already; to make a toy of it, give --scale"
    ):
        hpz("model", "add", "llama2-7b")


def test_show_says_which_worlds_share_it_equally(folder: Path) -> None:
    said = hpz("model", "show", folder)
    assert "transformer.h.{0..1}.attn.c_attn.weight" in said and "cannot share equally" in said
    assert "Every size divides by up to" not in said


def test_audit_takes_a_configuration(folder: Path) -> None:
    found = json.loads(hpz("audit", folder / "config.json", "--nodes", "3", "--json"))
    assert found["nodes"][0]["parameters_missing"] > 0


def test_doctor_takes_a_configuration(folder: Path) -> None:
    Path("ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8}}))
    words = ("--config", "ds.json", "--release", "0.13.4", "--world-size", 24, "--ranks-per-node", 8)
    found = json.loads(hpz("doctor", *words, "--model", folder, "--json"))
    assert {one["fault"]: one["exposed"] for one in found["exposures"]}["missing copy"] == "yes"
