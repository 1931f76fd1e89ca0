"""A cache of its own for each test, sources of text, and a tokenizer that was trained on text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.corpus import Source
from harness.study.text import stdlib_text


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where corpora are kept."""
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return tmp_path / "cache" / "corpora"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A folder for sources."""
    folder = tmp_path / "text"
    folder.mkdir()
    return folder


def source_of(path: Path | str, **own: Any) -> Source:
    """Nothing held out, a token a byte."""
    return Source(**{"kind": "file", "path": str(path), "validation_fraction": 0.0, **own})


def save_tokenizer(folder: Path, end: str | None = "<|end|>") -> Path:
    """A byte-level BPE of 500 tokens, trained on the standard library's source; `end` separates documents."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    lines = stdlib_text()[:200_000].decode(errors="replace").splitlines(keepends=True)
    trained.train_from_iterator(lines, vocab_size=500, special_tokens=["<|end|>"], show_progress=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(trained.to_str()), eos_token=end)
    fast.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("bpe"))
