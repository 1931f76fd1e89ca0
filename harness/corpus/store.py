"""Where corpora are kept, how one is found again, and whether its shards are still what they were.

Under a root (`HPZ_CACHE`/corpora, or the folder that a study names) each corpus has a folder named by its content, and
`requests/` says which content the text and tokenizer of a study have become. A shard's size is compared whenever a
corpus is opened; its sha256 when a study is started, where the file's time is not the one that was last found right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.corpus.files import local_files
from harness.corpus.records import Corpus, Shard, Source
from harness.system.errors import HarnessError
from harness.system.places import cache_folder
from harness.system.whole_file import write_json, write_text_whole

INDEX, STAMPS, REQUESTS = "index.json", "stamps.json", "requests"
Stamps = dict[str, list[int]]  # file → size and time of its last change, nanoseconds


def root_folder(root: str | None) -> Path:
    """Where corpora are kept."""
    return Path(root) if root else cache_folder() / "corpora"


def corpus_folder(root: str | None, content: str) -> Path:
    """The folder of the corpus with this content hash, whether it is there or not."""
    return root_folder(root) / content[:16]


def find_corpus(source: Source) -> Corpus | None:
    """The corpus that was prepared of `source`; None where there is none, or where files have changed since.

    Only sizes and times of the source's files are compared. Where none of them is on this machine, they cannot have
    changed.
    """
    file = root_folder(source.root) / REQUESTS / f"{source.request}.json"
    try:
        known = json.loads(file.read_text())
        content, before = known["content"], known["files"]
    except (OSError, ValueError, KeyError):
        return None
    now = source_stamps(source)
    if now and now != before:
        return None
    try:
        return load_corpus(corpus_folder(source.root, content))
    except HarnessError:
        return None


def known_corpora(root: str | None) -> Iterator[Corpus]:
    """Every corpus that is kept under a root."""
    for file in root_folder(root).glob(f"*/{INDEX}"):
        if not file.parent.name.startswith("preparing-"):
            with suppress(HarnessError):
                yield load_corpus(file.parent)


def remember(source: Source, content: str, stamps: Stamps) -> None:
    """Note what `source`, whose files had these stamps, has become. Raises HarnessError."""
    folder = root_folder(source.root) / REQUESTS
    write_json(folder / f"{source.request}.json", {"content": content, "files": stamps})


def source_stamps(source: Source) -> Stamps:
    """Of the source's local files, those of a local tokenizer included; empty where there are none."""
    files = local_files(source) + (sorted(Path(source.tokenizer).glob("*")) if source.tokenizer else [])
    return stamps_of(file for file in files if file.is_file())


def stamps_of(files: Iterable[Path]) -> Stamps:
    """Size and time of each file that is there."""
    found: Stamps = {}
    for file in files:
        with suppress(OSError):
            status = file.stat()
            found[str(file)] = [status.st_size, status.st_mtime_ns]
    return found


def load_corpus(folder: Path) -> Corpus:
    """The index in a corpus' folder. Raises HarnessError where there is none or it is not readable."""
    try:
        return Corpus.model_validate_json((folder / INDEX).read_text())
    except OSError as error:
        raise HarnessError(
            f"{folder}: holds no corpus ({error.strerror}); make one with `hpz data prepare STUDY`"
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise HarnessError(
            f"{folder / INDEX}: is no index of a corpus; delete the folder and run `hpz data prepare STUDY` again"
        ) from error


def find_folder(root: str | None, content: str) -> Path | None:
    """Where the corpus with this content hash lies: under `root`, else in the cache; None where it is in neither."""
    folders = (corpus_folder(place, content) for place in (root, None))
    return next((folder for folder in folders if (folder / INDEX).is_file()), None)


def open_corpus(root: str | None, content: str) -> tuple[Corpus, Path]:
    """A corpus by its content hash, sizes checked, and its folder. Raises HarnessError."""
    folder = find_folder(root, content)
    if folder is None:
        raise HarnessError(
            f"data: the packed corpus {content[:16]} is not in {root_folder(root)}; run `hpz data prepare STUDY` "
            "there, or name a folder that every node sees in data.prepared"
        )
    corpus = load_corpus(folder)
    for shard in corpus.shards:
        _check_size(folder, shard, corpus.dtype)
    return corpus, folder


def check_shards(corpus: Corpus, folder: Path) -> None:
    """Refuse a corpus with a shard that was altered. Raises HarnessError naming the file.

    A shard whose size and time are those of the last look is taken as it is; any other is hashed, once.
    """
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        known = json.loads((folder / STAMPS).read_text())
    stamps = {Path(name).name: stamp for name, stamp in stamps_of(_files(corpus, folder)).items()}
    doubtful = [shard for shard in corpus.shards if known.get(shard.file) != stamps.get(shard.file)]
    verify_shards(corpus, folder, doubtful)
    if doubtful:
        stamp(corpus, folder)


def verify_shards(corpus: Corpus, folder: Path, shards: Iterable[Shard] | None = None) -> None:
    """Hash shards (by default all) and compare. Raises HarnessError naming the first file that differs."""
    wanted = corpus.shards if shards is None else tuple(shards)
    with ThreadPoolExecutor() as pool:  # hashing lets other threads go on
        for _ in pool.map(lambda shard: _check_hash(folder, shard, corpus.dtype), wanted):
            pass


def stamp(corpus: Corpus, folder: Path) -> None:
    """Note sizes and times of shards that are right; in a folder of somebody else's they are hashed again next time."""
    stamps = {Path(name).name: stamp for name, stamp in stamps_of(_files(corpus, folder)).items()}
    with suppress(HarnessError):
        write_text_whole(folder / STAMPS, json.dumps(stamps))


def file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(corpus: Corpus, folder: Path) -> list[Path]:
    return [folder / shard.file for shard in corpus.shards]


def _check_size(folder: Path, shard: Shard, dtype: str) -> None:
    file, expected = folder / shard.file, shard.tokens * (2 if dtype == "uint16" else 4)
    try:
        size = file.stat().st_size
    except OSError as error:
        raise HarnessError(f"{file}: cannot be read ({error.strerror}); {_ANEW}") from error
    if size != expected:
        raise HarnessError(f"{file}: has {size} bytes where {expected} were written: altered since; {_ANEW}")


def _check_hash(folder: Path, shard: Shard, dtype: str) -> None:
    _check_size(folder, shard, dtype)
    if file_sha256(folder / shard.file) != shard.sha256:
        raise HarnessError(
            f"{folder / shard.file}: holds other tokens than were written: altered since; {_ANEW}"
        )


_ANEW = "delete the corpus' folder and run `hpz data prepare STUDY` again"
