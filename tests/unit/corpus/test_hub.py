"""Datasets that `datasets` can load, from local folders: streamed file by file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.corpus import open_tokens
from harness.corpus.prepare import Prepared, prepare
from harness.system.errors import HarnessError
from tests.unit.corpus.conftest import source_of

TEXTS = [f"document {n}" for n in range(60)]


def words(done: Prepared) -> list[str]:
    tokens = open_tokens(done.corpus, done.folder)
    return bytes(tokens.read(0, len(tokens)).tolist()).decode().split("\0")[:-1]


def write_dataset(folder: Path, column: str = "text") -> Path:
    for part in range(3):
        lines = [json.dumps({column: text}) for text in TEXTS[part * 20 : part * 20 + 20]]
        (folder / f"train-{part}.jsonl").write_text("\n".join(lines))
    return folder


def test_a_dataset_is_packed_in_the_order_of_its_files(text: Path) -> None:
    done = prepare(source_of(write_dataset(text), kind="hub"), workers=2)
    assert words(done) == TEXTS and len(done.corpus.train) == 3


def test_a_dataset_that_was_saved_to_disk_is_read(text: Path) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_dict({"text": TEXTS})}).save_to_disk(str(text / "saved"))
    assert words(prepare(source_of(text / "saved", kind="hub"), workers=1)) == TEXTS


def test_a_dataset_without_the_column_is_refused(text: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"data\.text_column: .*part 0, row 0: no column 'text'; it has body"
    ):
        prepare(source_of(write_dataset(text, "body"), kind="hub"), workers=1)


def test_a_dataset_without_the_split_is_refused(text: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"data\.path: dataset .*\(split 'test'\) could not be read \(Bad split"
    ):
        prepare(source_of(write_dataset(text), kind="hub", split="test"), workers=1)


def test_a_name_that_the_hub_does_not_give_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        HarnessError, match=r"dataset 'nobody/nothing' .* could not be read \(.*where the Hub can be"
    ):
        prepare(source_of("nobody/nothing", kind="hub"), workers=1)
