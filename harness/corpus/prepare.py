"""Preparing a corpus: many processes tokenise its parts, finished ones are kept, and the index comes last."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.corpus.encoder import open_encoder
from harness.corpus.files import Part, kind_of, local_files, parts_of
from harness.corpus.hub import HubPart, hub_parts, revision_of
from harness.corpus.pack import Job, Packed, pack_or_keep, start_worker
from harness.corpus.records import Corpus, Source, TokenizerInfo, content_hash, smallest_dtype
from harness.corpus.store import (
    INDEX,
    REQUESTS,
    check_shards,
    corpus_folder,
    file_sha256,
    find_corpus,
    known_corpora,
    remember,
    root_folder,
    source_stamps,
    stamp,
)
from harness.system.errors import HarnessError, RunFailed
from harness.system.whole_file import write_text_whole


@dataclass(frozen=True)
class Progress:
    """How far a preparation is: `done` of `total` bytes of local files, or parts of a dataset of the Hub."""

    what: str
    done: int
    total: int
    unit: str
    tokens: int = 0


@dataclass(frozen=True)
class Prepared:
    """A corpus and where it lies; how many of its shards were made now, and how many an earlier call had finished."""

    corpus: Corpus
    folder: Path
    made: int = 0
    kept: int = 0


Watcher = Callable[[Progress], None]


def prepare(
    source: Source,
    *,
    workers: int | None = None,
    watch: Watcher = lambda progress: None,
    check: Callable[[TokenizerInfo], None] = lambda tokenizer: None,
) -> Prepared:
    """Make the corpus of `source` with `workers` processes (default: one a core), or find it made.

    `check` may refuse the tokenizer before any work. Raises HarnessError for bad input, and RunFailed where a worker is
    killed. Whatever the end, finished shards are kept, and the same call goes on from them.
    """
    with _only_one(source.root, source.request):
        if (corpus := find_corpus(source)) is not None:
            check(corpus.tokenizer)
            folder = corpus_folder(source.root, corpus.content)
            check_shards(corpus, folder)
            return Prepared(corpus, folder)
        tokenizer = tokenizer_info(source.tokenizer)
        check(tokenizer)
        with _workers(workers or len(os.sched_getaffinity(0))) as crew:
            return _prepared(source, tokenizer, crew, watch)


def tokenizer_info(name: str | None) -> TokenizerInfo:
    """What is to be known of a tokenizer. Raises HarnessError."""
    encoder = open_encoder(name)
    return TokenizerInfo(
        name=name or "bytes",
        sha256=encoder.sha256,
        vocabulary=encoder.vocab_size,
        separator=encoder.separator,
    )


@dataclass(frozen=True)
class Crew:
    """Worker processes."""

    pool: ProcessPoolExecutor
    size: int


def _prepared(source: Source, tokenizer: TokenizerInfo, crew: Crew, watch: Watcher) -> Prepared:
    files, stamps = local_files(source), source_stamps(source)
    exact = source
    if files:
        texts = [
            [kind_of(file), digest] for file, digest in zip(files, _hashed(files, crew, watch), strict=True)
        ]
    elif source.kind == "hub":
        exact = source.model_copy(update={"revision": revision_of(source)})
        texts = [[source.path, str(exact.revision)]]
    else:
        raise HarnessError(
            f"data.path: no text is at {source.path}; give a file, a folder with .txt, .jsonl or .parquet files, or "
            "a glob"
        )
    key = source.key(texts, tokenizer.sha256)
    made = kept = 0
    with _only_one(source.root, key):  # another path may hold the same text
        corpus = next((known for known in known_corpora(source.root) if known.key == key), None)
        if corpus is None:
            work = root_folder(source.root) / f"preparing-{key[:16]}"
            work.mkdir(exist_ok=True)
            job = Job(work, exact, smallest_dtype(tokenizer.vocabulary), tokenizer.separator)
            parts = parts_of(files) if source.kind == "file" else hub_parts(exact)
            packed, kept = _packed(job, parts, crew, watch)
            if source_stamps(source) != stamps:
                raise HarnessError(
                    f"data.path: {source.path} changed while it was read; run again once it is whole"
                )
            made = len(packed) - kept
            corpus = _index(job, key, tokenizer, packed, files)
            _publish(corpus, work)
    remember(source, corpus.content, stamps)
    return Prepared(corpus, corpus_folder(source.root, corpus.content), made, kept)


def _hashed(files: Sequence[Path], crew: Crew, watch: Watcher) -> list[str]:
    sizes = [file.stat().st_size for file in files]
    found: list[str] = []
    try:
        for digest in crew.pool.map(file_sha256, files):
            found.append(digest)
            watch(Progress("hashing", sum(sizes[: len(found)]), sum(sizes), "bytes"))
    except OSError as error:
        raise HarnessError(
            f"data.path: {error.filename} cannot be read ({error.strerror}); leave it out"
        ) from error
    except BrokenProcessPool as error:
        raise _killed() from error
    return found


def _packed(
    job: Job, parts: Sequence[Part | HubPart], crew: Crew, watch: Watcher
) -> tuple[list[Packed], int]:
    """What the parts have become, in order, up to the one that makes the tokens enough; and how many were kept."""
    sizes = [1 if isinstance(part, HubPart) else sum(piece.bytes for piece in part) for part in parts]
    unit = "parts" if job.source.kind == "hub" else "bytes"
    wanted = job.source.max_tokens
    done: dict[int, Packed] = {}
    kept: set[int] = set()
    running: dict[Future[tuple[Packed, bool]], int] = {}
    waiting = deque(range(len(parts)))
    try:
        while (waiting or running) and not _enough(done, wanted):
            while waiting and len(running) < 2 * crew.size:
                number = waiting.popleft()
                running[crew.pool.submit(pack_or_keep, job, number, parts[number])] = number
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                done[number], was_there = future.result()
                kept |= {number} if was_there else set()
            tokens = sum(packed.shards[0].tokens for packed in done.values())
            watch(Progress("tokenising", sum(sizes[number] for number in done), sum(sizes), unit, tokens))
        wait([future for future in running if not future.cancel()])  # they write where the corpus grows
    except BrokenProcessPool as error:
        raise _killed() from error
    needed = _first(done, wanted)
    return needed, len(kept & {packed.number for packed in needed})


def _enough(done: dict[int, Packed], wanted: int | None) -> bool:
    """Whether the parts that are done make the tokens enough, without one that is still running among them."""
    return wanted is not None and sum(packed.shards[0].tokens for packed in _first(done, wanted)) >= wanted


def _first(done: dict[int, Packed], wanted: int | None) -> list[Packed]:
    """The first parts without a gap, up to the one with which there are `wanted` tokens to train on."""
    found: list[Packed] = []
    tokens = 0
    while len(found) in done and (wanted is None or tokens < wanted):
        found.append(done[len(found)])
        tokens += found[-1].shards[0].tokens
    return found


def _index(
    job: Job, key: str, tokenizer: TokenizerInfo, packed: Sequence[Packed], files: Sequence[Path]
) -> Corpus:
    train = [one.shards[0] for one in packed if one.shards[0].tokens]
    held_out = [one.shards[1] for one in packed if one.shards[1].tokens]
    return Corpus(
        content=content_hash(job.dtype, tokenizer, train, held_out),
        key=key,
        source=job.source,
        source_files=len(files) or None,
        source_bytes=sum(file.stat().st_size for file in files) or None,
        tokenizer=tokenizer,
        dtype=job.dtype,
        documents=sum(one.documents for one in packed),
        held_out_documents=sum(one.held_out_documents for one in packed),
        train=tuple(train),
        held_out=tuple(held_out),
    )


def _publish(corpus: Corpus, work: Path) -> None:
    """Leave the shards and the index alone in the folder, and give it the name of its content. Raises HarnessError."""
    if not corpus.train:
        raise HarnessError(f"data.path: {corpus.source.path}: holds no text to train on; give another text")
    for file in work.iterdir():
        if file.name not in {shard.file for shard in corpus.shards}:
            file.unlink()
    write_text_whole(work / INDEX, corpus.model_dump_json(indent=1) + "\n")
    stamp(corpus, work)
    target = corpus_folder(corpus.source.root, corpus.content)
    shutil.rmtree(target, ignore_errors=True)  # there, only a damaged one can be
    work.rename(target)


@contextmanager
def _only_one(root: str | None, name: str) -> Iterator[None]:
    """Two preparations of one thing wait for each other. Raises HarnessError where the folder cannot be written."""
    folder = root_folder(root) / REQUESTS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{name}.lock").open("w")
    except OSError as error:
        raise HarnessError(
            f"{folder}: corpora cannot be kept there ({error.strerror}); name another folder with "
            "data.prepared or HPZ_CACHE"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _workers(count: int) -> Iterator[Crew]:
    """Processes that end with this block: where it fails, at once."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=start_worker,
        initargs=(os.getpid(),),
    )
    try:
        yield Crew(pool, count)
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _killed() -> RunFailed:
    return RunFailed(
        "a worker of the preparation was killed, most likely for want of memory; run again with fewer --workers: "
        "finished shards are kept"
    )
