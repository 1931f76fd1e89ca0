"""A corpus that was altered is refused with the file's name; one that only moved is hashed once and trusted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.corpus import check_shards, corpus_folder, load_corpus, open_corpus, verify_shards
from harness.corpus.prepare import Prepared, prepare
from harness.system.errors import HarnessError
from tests.unit.corpus.conftest import source_of


@pytest.fixture
def done(text: Path) -> Prepared:
    (text / "a.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 100)
    return prepare(source_of(text), workers=1)


def flip(done: Prepared) -> Path:
    """Change one token, but not the size."""
    file = done.folder / done.corpus.train[0].file
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    return file


def test_a_corpus_is_named_by_its_content(done: Prepared) -> None:
    assert done.folder == corpus_folder(None, done.corpus.content)
    assert open_corpus(None, done.corpus.content) == (done.corpus, done.folder)
    check_shards(done.corpus, done.folder)


def test_a_shard_that_was_altered_is_refused(done: Prepared) -> None:
    file = flip(done)
    for look in (check_shards, verify_shards):
        with pytest.raises(
            HarnessError, match=f"{file}: holds other tokens than were written: altered since"
        ):
            look(done.corpus, done.folder)


def test_a_shard_of_another_size_is_refused_by_whoever_opens_it(done: Prepared) -> None:
    file = done.folder / done.corpus.train[0].file
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(
        HarnessError, match=r"train-00000\.bin: has 9000 bytes where 9002 were written: altered"
    ):
        open_corpus(None, done.corpus.content)


def test_a_shard_that_is_gone_is_named(done: Prepared) -> None:
    (done.folder / done.corpus.train[0].file).unlink()
    with pytest.raises(HarnessError, match=r"train-00000\.bin: cannot be read \(No such file"):
        open_corpus(None, done.corpus.content)


def test_a_copied_corpus_is_hashed_once(done: Prepared, tmp_path: Path) -> None:
    root = tmp_path / "scratch"
    folder = corpus_folder(str(root), done.corpus.content)
    shutil.copytree(done.folder, folder, copy_function=shutil.copy)  # without times
    before = (folder / "stamps.json").read_text()
    check_shards(*open_corpus(str(root), done.corpus.content))
    after = (folder / "stamps.json").read_text()
    check_shards(*open_corpus(str(root), done.corpus.content))
    assert before != after == (folder / "stamps.json").read_text()


def test_a_damaged_corpus_is_made_anew(done: Prepared) -> None:
    flip(done)
    with pytest.raises(
        HarnessError, match="delete the corpus' folder and run `hpz data prepare STUDY` again"
    ):
        prepare(done.corpus.source, workers=1)
    shutil.rmtree(done.folder)
    assert prepare(done.corpus.source, workers=1).corpus == done.corpus


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"holds no corpus .*; make one with `hpz data prepare STUDY`"):
        load_corpus(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(HarnessError, match=r"index\.json: is no index of a corpus; delete the folder"):
        load_corpus(tmp_path)
    with pytest.raises(HarnessError, match=r"the packed corpus 0000000000000000 is not in .*data\.prepared"):
        open_corpus(None, "0" * 64)
