"""`hpz data`: prepare, show and verify a study's corpus, in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.study import load_study
from harness.study.text import stdlib_text
from tests.conftest import write_study


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of a folder of texts."""
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "cache"))
    written = write_study(tmp_path, data={"file": "text", "packed": True})
    (written.parent / "text").mkdir()
    (written.parent / "text" / "a.txt").write_bytes(stdlib_text()[:5000])
    return written


def hpz(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of one command."""
    monkeypatch.setattr("sys.argv", ["hpz", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    assert hpz(monkeypatch, *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_a_corpus_is_prepared_shown_and_verified(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = answer(monkeypatch, capsys, "data", "prepare", file, "--workers", 1)
    assert (made["train_tokens"], made["documents"], made["made"], made["dtype"]) == (5001, 1, 1, "uint16")
    assert load_study(file).data.sha256 == made["content"]
    shown = answer(monkeypatch, capsys, "data", "show", file)
    assert shown["content"] == made["content"] and shown["read_by_longest_run"] == 256
    assert answer(monkeypatch, capsys, "data", "verify", made["folder"])["shards"] == 1
    assert answer(monkeypatch, capsys, "data", "prepare", file)["made"] == 0


def test_what_is_said_of_a_corpus_can_be_read(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpz(monkeypatch, "data", "prepare", file, "--workers", 1) == 0
    said = capsys.readouterr().out
    assert "Tokenizer bytes: 256 ids, documents end with 0" in said
    assert "Training  5,001 tokens, 1 documents, 1 shards" in said
    assert hpz(monkeypatch, "data", "show", file) == 0
    assert "The longest run reads 256 tokens, 0.0512 times the training text." in capsys.readouterr().out
    assert hpz(monkeypatch, "data", "prepare", file) == 0
    assert "It was prepared before, and no shard has changed since." in capsys.readouterr().out


def test_an_altered_shard_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(answer(monkeypatch, capsys, "data", "prepare", file, "--workers", 1)["folder"])
    shard = folder / "train-00000.bin"
    shard.write_bytes(b"\1" + shard.read_bytes()[1:])
    for verb in ("verify", "prepare"):
        assert hpz(monkeypatch, "data", verb, file) == 2
        assert f"{shard}: holds other tokens than were written: altered since" in capsys.readouterr().err


def test_what_is_not_prepared_says_how_to(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("data", "show"), ("data", "verify"), ("run",)):
        assert hpz(monkeypatch, *words, file) == 2
        assert "is not prepared, or has changed since; run `hpz data prepare" in capsys.readouterr().err
    assert hpz(monkeypatch, "plan", file) == 0
    assert f"not prepared yet, and the ids will change: hpz data prepare {file}" in capsys.readouterr().out


def test_a_study_without_a_corpus_has_nothing_to_prepare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpz(monkeypatch, "data", "prepare", write_study(tmp_path)) == 2
    assert "data.packed: " in (said := capsys.readouterr().err) and "say data: {file: YOUR_TEXT" in said


def test_too_few_tokens_are_told_once_they_are_prepared(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training = {"steps": 400, "micro_batch": 1, "sequence_length": 16}
    write_study(tmp_path, data={"file": "text", "packed": True}, training=training)
    assert hpz(monkeypatch, "data", "prepare", file, "--workers", 1) == 2
    assert "400 steps of 64 tokens read 25,600, and the corpus has 4,992" in capsys.readouterr().err


def test_a_tokenizer_larger_than_the_model_is_refused_before_any_work(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.corpus.encoder.Bytes.vocab_size", 600)
    assert hpz(monkeypatch, "data", "prepare", file, "--workers", 1) == 2
    assert "'bytes' has 600 token ids, and model llama2-toy a vocab_size of 512" in capsys.readouterr().err
    assert not list((tmp_path / "cache" / "corpora").glob("preparing-*"))
