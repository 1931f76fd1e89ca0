"""`hpz race` on a folder of faults: what has one shows it, what ended it is silent, a wrong file is not believed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from harness.cli.race import race
from harness.race.fault_pairs import Pairs
from harness.race.replay import read_replay
from harness.system.places import REPOSITORY
from tests.releases import pristine

CORPUS = REPOSITORY / "experiments" / "corpus"
app = typer.Typer()
app.command()(race)


def hpz_race(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)


def corpus_of(folder: Path, *names: str) -> Path:
    """A corpus of some of the shipped faults."""
    for name in names:
        shutil.copyfile(CORPUS / f"{name}.yaml", folder / f"{name}.yaml")
        content = yaml.safe_load((CORPUS / f"{name}.yaml").read_text())
        shutil.copyfile(CORPUS / content["program"], folder / content["program"])
        for side in ("has", "ended"):
            pristine(content[side]["release"])
    return folder


def swapped(file: Path, name: str) -> None:
    """The same fault, said of the release that ended it."""
    content = yaml.safe_load(file.read_text())
    content["has"], content["ended"] = content["ended"], content["has"]
    file.with_stem(name).write_text(yaml.safe_dump(content))


@pytest.mark.slow
def test_a_pair_is_found_and_clean_and_a_wrong_file_is_missed_and_wrong(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    corpus = corpus_of(tmp_path / "corpus", "default-stream", "compiled-offload")
    swapped(corpus / "compiled-offload.yaml", "not-so")
    results = tmp_path / "results"
    done = hpz_race(corpus, "--results", results, "--seeds", 0)
    assert done.exit_code == 1  # one is missed
    pairs = Pairs.model_validate_json((results / "corpus.json").read_text())
    assert [(pair.name, pair.has.verdict, pair.ended.verdict) for pair in pairs.pairs] == [
        ("not-so", "missed", "wrong"),
        ("compiled-offload", "found", "clean"),
        ("default-stream", "found", "clean"),
    ]
    assert "nothing is reported" in (pairs.pairs[0].has.why or "")
    for pair in pairs.pairs[1:]:
        assert pair.has.replay is not None
        replay, _ = read_replay(results / pair.has.replay)
        assert replay.expected != replay.reference
    (corpus / "not-so.yaml").unlink()  # what is missed or wrong is run again each time
    again = hpz_race(corpus, "--results", results, "--seeds", 0)
    assert "0 of 2 pairs run" in again.stdout
    assert again.exit_code == 0


@pytest.mark.slow
def test_one_file_is_a_corpus_too(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "compiled-offload")
    done = hpz_race(
        corpus / "compiled-offload.yaml", "--results", tmp_path / "results", "--no-explore", "--json"
    )
    assert done.exit_code == 0
    assert Pairs.model_validate_json(done.stdout).found == 1
