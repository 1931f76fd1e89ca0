"""A study with a packed corpus: which one it is, and what is refused before anything starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.corpus import corpus_folder
from harness.corpus.prepare import prepare
from harness.study import Study, check_corpus, corpus_source, load_study, save_study
from harness.study.text import stdlib_text
from harness.system.errors import HarnessError
from tests.conftest import write_study

PACKED = {"file": "text", "packed": True, "validation_fraction": 0.3}
TRAINING = {"steps": 4, "micro_batch": 1, "sequence_length": 16}


@pytest.fixture(autouse=True)
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of texts beside the study, and a cache of its own."""
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "experiments" / "text"
    write_study(tmp_path)
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.txt").write_bytes(stdlib_text()[number * 1000 :][:1000])
    return folder


def study(tmp_path: Path, training: dict[str, Any] | None = None, **data: Any) -> Study:
    return load_study(
        write_study(tmp_path, training={**TRAINING, **(training or {})}, data={**PACKED, **data})
    )


def prepared(tmp_path: Path, **data: Any) -> Study:
    """The study once its text is prepared."""
    prepare(corpus_source(study(tmp_path, **data).data), workers=1)
    return study(tmp_path, **data)


def ids(of: Study) -> list[str]:
    return [run.run_id for run in of.runs]


def test_a_prepared_corpus_is_part_of_a_runs_id_and_its_place_is_not(tmp_path: Path, text: Path) -> None:
    before, first = ids(study(tmp_path)), prepared(tmp_path)
    kept_elsewhere = prepared(tmp_path, prepared="kept")
    assert ids(first) == ids(kept_elsewhere) and not set(before) & set(ids(first))
    assert kept_elsewhere.data.prepared == str(tmp_path / "experiments" / "kept")
    shutil.copytree(text, text.with_name("copy"))
    assert ids(prepared(tmp_path, file="copy")) == ids(first)
    (text / "3.txt").write_text("Other text.")
    assert not set(ids(prepared(tmp_path))) & set(ids(first))


def test_leave_to_repeat_is_no_part_of_an_id(tmp_path: Path) -> None:
    assert ids(prepared(tmp_path)) == ids(study(tmp_path, repeat=True))


def test_a_resolved_study_reads_back_without_text_or_corpus(tmp_path: Path, text: Path) -> None:
    first = prepared(tmp_path)
    save_study(first, tmp_path / "results")
    shutil.rmtree(text)
    shutil.rmtree(tmp_path / "cache")
    again = load_study(tmp_path / "results")
    assert ids(again) == ids(first)
    with pytest.raises(
        HarnessError, match=r"the packed corpus \w{16} is not in .*run `hpz data prepare STUDY`"
    ):
        check_corpus(again)


def test_runs_are_refused_until_their_text_is_prepared(tmp_path: Path, text: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"data\.path: .*text is not prepared, or has changed since; run `hpz data"
    ):
        check_corpus(study(tmp_path))
    check_corpus(prepared(tmp_path))
    (text / "more.txt").write_text("More text.")
    with pytest.raises(HarnessError, match="is not prepared, or has changed since"):
        check_corpus(study(tmp_path))


def test_an_altered_shard_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = prepared(tmp_path)
    shard = corpus_folder(None, str(done.data.sha256)) / "train-00000.bin"
    shard.write_bytes(b"\1" + shard.read_bytes()[1:])
    with pytest.raises(
        HarnessError, match=r"train-00000\.bin: holds other tokens than were written: altered since"
    ):
        check_corpus(done)


def test_more_steps_than_there_are_tokens_are_refused_with_both_numbers(tmp_path: Path) -> None:
    prepared(tmp_path)
    message = r"tiny\.yaml: training\.steps: 500 steps of 64 tokens read 32,000, and the corpus has [\d,]+ in whole seq"
    with pytest.raises(HarnessError, match=message):
        study(tmp_path, {"steps": 500})
    assert study(tmp_path, {"steps": 500}, repeat=True).runs


def test_a_text_shorter_than_a_sequence_is_refused(tmp_path: Path) -> None:
    prepared(tmp_path)
    with pytest.raises(
        HarnessError, match=r"training\.sequence_length: the corpus has [\d,]+ tokens .*of 20,000"
    ):
        study(tmp_path, {"sequence_length": 20_000}, repeat=True)


def test_more_validation_than_is_held_out_is_refused(tmp_path: Path) -> None:
    prepared(tmp_path)
    asked = {"validate_every": 2, "validation_batches": 900}
    with pytest.raises(
        HarnessError, match=r"validation_batches: 3,600 sequences of 16 .*larger data\.validation_frac"
    ):
        study(tmp_path, asked)
    assert study(tmp_path, {**asked, "validation_batches": 2}).runs


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "experiments" / "models" / "llama2-toy.yaml"
    prepared(tmp_path)
    small = yaml.safe_load(file.read_text())
    small["parameters"] -= 2 * 64 * (small["config"]["vocab_size"] - 200)
    small["config"]["vocab_size"] = 200
    file.write_text(yaml.safe_dump(small))
    message = r"tiny\.yaml: data\.tokenizer: 'bytes' has 256 token ids, and model llama2-toy a vocab_size of 200; use"
    with pytest.raises(HarnessError, match=message):
        study(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"packed": True}, r"data: packed: source 'stdlib' is not prepared; give file or hub"),
        ({"file": "text", "repeat": True}, r"data: repeat is for prepared text; set packed: true"),
        (
            {"file": "text"},
            r"data\.path: 'text' is a folder; set data\.packed: true and run `hpz data prepare",
        ),
        ({"file": "gone", "packed": True}, r"data\.path: no file or folder 'gone' beside tiny\.yaml"),
        ({"source": "hub", "packed": True}, r"data\.path: needed for packed data; give hub: and where"),
    ],
)
def test_what_cannot_be_prepared_is_refused(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        load_study(write_study(tmp_path, data=data))


def test_a_dataset_by_name_and_a_glob_need_not_be_here(tmp_path: Path) -> None:
    for data in ({"hub": "some/set"}, {"file": "corpus/*.jsonl"}):
        found = load_study(write_study(tmp_path, data={**data, "packed": True})).data
        assert found.sha256 is None and str(found.path).endswith(next(iter(data.values())))
