"""A corpus is a function of text and tokenizer: not of the workers, of an interruption, or of who asks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.corpus import Corpus, Source, find_corpus, open_encoder, open_tokens
from harness.corpus.files import local_files, parts_of
from harness.corpus.prepare import Prepared, prepare
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from tests.unit.corpus.conftest import save_tokenizer, source_of

TEXTS = [f"document {n} " * (1 + n % 7) for n in range(300)]


def write_lines(file: Path, texts: list[str]) -> Path:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def tokens_of(done: Prepared, held_out: bool = False) -> np.ndarray[Any, Any]:
    tokens = open_tokens(done.corpus, done.folder, held_out)
    return tokens.read(0, len(tokens))


def small_parts(monkeypatch: pytest.MonkeyPatch, size: int = 1000) -> None:
    """Parts of a kilobyte, where a corpus of tests would else be one."""
    monkeypatch.setattr("harness.corpus.files.PART_BYTES", (size, size))


def test_bytes_are_packed_end_to_end_with_a_zero_behind_each_document(text: Path) -> None:
    done = prepare(source_of(write_lines(text / "a.jsonl", ["one", "zwölf", "three"])), workers=1)
    assert bytes(tokens_of(done).tolist()).decode() == "one\0zwölf\0three\0"
    assert (done.corpus.dtype, done.corpus.documents, done.corpus.tokenizer.separator) == ("uint16", 3, 0)


def test_a_tokenizers_own_end_token_separates_documents(text: Path, bpe: Path) -> None:
    texts = ["import os\n", "def main() -> None:\n    return\n"]
    done = prepare(source_of(write_lines(text / "a.jsonl", texts), tokenizer=str(bpe)), workers=1)
    encoder = open_encoder(str(bpe))
    expected = [token for one in texts for token in [*encoder.encode(one), encoder.separator]]
    assert tokens_of(done).tolist() == expected and encoder.separator == 0
    assert done.corpus.tokenizer.vocabulary == 500


def test_large_vocabularies_have_wider_tokens(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.corpus.encoder.Bytes.vocab_size", 100_000)
    done = prepare(source_of(write_lines(text / "a.jsonl", ["one", "two"])), workers=1)
    assert done.corpus.dtype == "uint32" and (done.folder / "train-00000.bin").stat().st_size == 4 * 8
    assert bytes(tokens_of(done).tolist()) == b"one\0two\0"


def test_workers_do_not_show_in_a_corpus(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    file = write_lines(text / "a.jsonl", TEXTS)
    one, three = (
        prepare(source_of(file, validation_fraction=0.1, root=str(tmp_path / str(n))), workers=n).corpus
        for n in (1, 3)
    )
    assert one.content == three.content and len(one.train) > 10


def test_a_share_of_the_documents_is_held_out_and_never_a_copy_of_one(text: Path) -> None:
    done = prepare(source_of(write_lines(text / "a.jsonl", TEXTS * 2), validation_fraction=0.2), workers=1)
    train, held = (
        set(bytes(tokens_of(done, part).tolist()).decode().split("\0")) - {""} for part in (False, True)
    )
    assert train | held == set(TEXTS) and not train & held
    assert 30 < len(held) < 90 and done.corpus.held_out_documents == 2 * len(held)


def test_a_prepared_corpus_is_found_and_not_made_again(text: Path) -> None:
    source = source_of(write_lines(text / "a.jsonl", TEXTS))
    assert find_corpus(source) is None
    first = prepare(source, workers=1)
    assert find_corpus(source) == first.corpus
    again = prepare(source, workers=1)
    assert (first.made, again.made, again.corpus) == (1, 0, first.corpus)


def test_the_same_text_elsewhere_is_the_same_corpus(text: Path) -> None:
    first = prepare(source_of(write_lines(text / "a.jsonl", TEXTS)), workers=1)
    other = prepare(source_of(write_lines(text / "b.jsonl", TEXTS)), workers=1)
    assert other.corpus == first.corpus and other.made == 0


@pytest.mark.parametrize("change", ["altered", "touched", "added"])
def test_text_that_changed_is_prepared_again(text: Path, change: str) -> None:
    source = source_of(text)
    before = prepare(source_of(write_lines(text / "a.jsonl", TEXTS).parent), workers=1)
    if change == "touched":
        os.utime(text / "a.jsonl", ns=(1, 1))
    else:
        write_lines(text / ("a.jsonl" if change == "altered" else "b.jsonl"), ["news"])
    assert find_corpus(source) is None
    after = prepare(source, workers=1)
    assert (after.corpus == before.corpus) == (change == "touched") == (after.made == 0)


def test_a_corpus_is_found_where_its_text_is_not(text: Path) -> None:
    source = source_of(write_lines(text / "a.jsonl", TEXTS))
    corpus = prepare(source, workers=1).corpus
    (text / "a.jsonl").unlink()
    assert find_corpus(source) == corpus


def test_no_more_is_prepared_than_asked_for(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    source = source_of(write_lines(text / "a.jsonl", TEXTS), max_tokens=2500)
    done = prepare(source, workers=2)
    whole = "\0".join(TEXTS)
    assert 2500 <= done.corpus.train_tokens < 4000
    assert whole.startswith(bytes(tokens_of(done).tolist()).decode().rstrip("\0"))
    assert {file.name for file in done.folder.iterdir()} == {
        *(shard.file for shard in done.corpus.shards),
        "index.json",
        "stamps.json",
    }


PARTS = 100_000  # bytes of each part where a preparation is interrupted


def interrupted(source: Source, cache: Path, text: Path) -> Path:
    """Kill a preparation after some of its parts; returns its unfinished folder."""
    script = (
        "import sys; from harness.corpus import Source, files; from harness.corpus.prepare import prepare\n"
        f"files.PART_BYTES = {PARTS, PARTS}\n"
        "if __name__ == '__main__': prepare(Source.model_validate_json(sys.argv[1]), workers=1)"
    )
    (text / "go.py").write_text(script)
    going = subprocess.Popen(
        [sys.executable, str(text / "go.py"), source.model_dump_json()],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    deadline = time.monotonic() + 60
    while len(list(cache.glob("preparing-*/part-*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    going.send_signal(signal.SIGKILL)
    going.wait()
    (folder,) = cache.glob("preparing-*")
    return folder


@pytest.mark.slow
def test_a_killed_preparation_goes_on_with_what_it_had(
    text: Path, cache: Path, tmp_path: Path, bpe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, PARTS)
    words = [f"line {n} of a text that is long enough to take a while\n" * 100 for n in range(120)]
    source = source_of(write_lines(text / "a.jsonl", words), tokenizer=str(bpe))
    folder = interrupted(source, cache, text)
    finished = sorted(folder.glob("part-*.json"))
    damaged = folder / json.loads(finished[0].read_text())["train"]["file"]
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"xx")
    done = prepare(source, workers=1)
    assert (done.kept, done.made + done.kept) == (len(finished) - 1, len(parts_of(local_files(source))))
    fresh = prepare(source.model_copy(update={"root": str(tmp_path / "elsewhere")}), workers=1)
    assert done.corpus.content == fresh.corpus.content and not folder.exists()


def test_progress_ends_with_everything_done(text: Path) -> None:
    seen: list[Any] = []
    corpus: Corpus = prepare(
        source_of(write_lines(text / "a.jsonl", TEXTS)), workers=1, watch=seen.append
    ).corpus
    assert [one.what for one in seen] == ["hashing", "tokenising"]
    assert all(one.done == one.total == (text / "a.jsonl").stat().st_size for one in seen)
    assert seen[-1].tokens == corpus.train_tokens


# Bad input.


def test_a_place_without_text_is_refused(text: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"data\.path: no text is at .*text; give a file, a folder with \.txt"
    ):
        prepare(source_of(text), workers=1)


def test_text_without_a_word_is_refused(text: Path) -> None:
    (text / "a.txt").write_text("")
    with pytest.raises(HarnessError, match=r"data\.path: .*holds no text to train on"):
        prepare(source_of(text), workers=1)


def test_a_bad_line_ends_the_preparation_with_its_place(text: Path) -> None:
    write_lines(text / "a.jsonl", TEXTS)
    (text / "b.jsonl").write_text("{\n")
    with pytest.raises(HarnessError, match=r"b\.jsonl: byte 0: not a line of JSON"):
        prepare(source_of(text), workers=2)


def test_a_tokenizer_without_an_end_token_is_refused(text: Path, tmp_path: Path) -> None:
    (text / "a.txt").write_text("text")
    endless = save_tokenizer(tmp_path / "endless", end=None)
    with pytest.raises(HarnessError, match=r"data\.tokenizer: .*endless' has no end token \(eos_token\)"):
        prepare(source_of(text, tokenizer=str(endless)), workers=1)


def test_a_folder_that_cannot_be_written_is_named(text: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(
        HarnessError, match=r"taken/requests: corpora cannot be kept there \(.*data\.prepared"
    ):
        prepare(source_of(text, root=str(tmp_path / "taken")), workers=1)
