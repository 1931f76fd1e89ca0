"""The work of one process: the documents of a part become a shard to train on and one that is held out.

Documents lie end to end, each with the tokenizer's own end token behind it. What is made of a part depends on the part
alone, so neither the number of workers nor an interruption shows in a corpus.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from harness.corpus.encoder import Encoder, open_encoder
from harness.corpus.files import Part, documents
from harness.corpus.hub import HubPart, hub_documents
from harness.corpus.records import Dtype, Shard, Source
from harness.system.errors import HarnessError
from harness.system.parent import die_with
from harness.system.whole_file import write_text_whole

BATCH_BYTES = 1 << 20  # of text that is tokenised at a time


@dataclass(frozen=True)
class Job:
    """What all parts have in common."""

    folder: Path
    source: Source
    dtype: Dtype
    separator: int


@dataclass(frozen=True)
class Packed:
    """What a part has become; written beside its shards, and without it they count for nothing."""

    number: int
    train: dict[str, Any]
    held_out: dict[str, Any]
    documents: int
    held_out_documents: int

    @property
    def shards(self) -> tuple[Shard, Shard]:
        return Shard(**self.train), Shard(**self.held_out)


def start_worker(parent: int) -> None:
    """Ctrl-C ends a worker without a word, and nothing of it outlives the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with(parent)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism


def pack_or_keep(job: Job, number: int, part: Part | HubPart) -> tuple[Packed, bool]:
    """What the part has become, and whether an earlier preparation had finished it. Raises HarnessError."""
    kept = packed_before(job, number)
    return (pack_part(job, number, part), False) if kept is None else (kept, True)


def pack_part(job: Job, number: int, part: Part | HubPart) -> Packed:
    """Tokenise a part into its two shards. Raises HarnessError naming file and place, or a full disk."""
    source, encoder = job.source, _encoder(job.source.tokenizer)
    texts = hub_documents(source, part) if isinstance(part, HubPart) else documents(part, source.text_column)
    counted = [0, 0]
    try:
        with _Writer(job, f"train-{number:05d}.bin") as train, _Writer(job, f"held-{number:05d}.bin") as held:
            for text, ids in _encoded(texts, encoder):
                out = is_held_out(text, source.validation_fraction)
                (held if out else train).add(ids)
                counted[out] += 1
                if source.max_tokens is not None and train.tokens >= source.max_tokens:
                    break
        packed = Packed(number, train.shard(), held.shard(), counted[False], counted[True])
        write_text_whole(record_file(job, number), json.dumps(asdict(packed)))
    except OSError as error:
        raise HarnessError(
            f"{job.folder}: shard {number} cannot be written ({error.strerror}); free space, or name another "
            "folder with data.prepared or HPZ_CACHE, and run again: finished shards are kept"
        ) from error
    return packed


def packed_before(job: Job, number: int) -> Packed | None:
    """What an earlier preparation has finished, where its shards are still as they were written."""
    try:
        packed = Packed(**json.loads(record_file(job, number).read_text()))
        for shard in packed.shards:
            with (job.folder / shard.file).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != shard.sha256:
                    return None
    except (OSError, ValueError, TypeError):
        return None
    return packed


def record_file(job: Job, number: int) -> Path:
    return job.folder / f"part-{number:05d}.json"


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a document is for validation: decided by its text, so that equal ones are never on both sides."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _encoded(texts: Iterable[str], encoder: Encoder) -> Iterator[tuple[str, Any]]:
    """Texts with their ids, tokenised many at a time."""
    for batch in _batches(texts):
        yield from zip(batch, encoder.encode_batch(batch), strict=True)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    gathered: list[str] = []
    size = 0
    for text in texts:
        gathered.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield gathered
            gathered, size = [], 0
    if gathered:
        yield gathered


class _Writer:
    """One shard, hashed as it is written; it has its name only once it is whole."""

    def __init__(self, job: Job, name: str) -> None:
        self.file, self.beside = job.folder / name, job.folder / f"{name}.tmp"
        self.dtype = np.dtype(job.dtype).newbyteorder("<")
        self.end = np.array([job.separator], self.dtype).tobytes()
        self.tokens, self.hash = 0, hashlib.sha256()

    def __enter__(self) -> Self:
        self.stream = self.beside.open("wb", buffering=1 << 20)
        return self

    def __exit__(self, failed: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self.stream.close()
        if failed is None:
            self.beside.replace(self.file)

    def add(self, ids: Any) -> None:
        array = np.frombuffer(ids, np.uint8) if isinstance(ids, bytes) else np.asarray(ids)
        content = array.astype(self.dtype).tobytes() + self.end
        self.stream.write(content)
        self.hash.update(content)
        self.tokens += array.size + 1

    def shard(self) -> dict[str, Any]:
        return {"file": self.file.name, "tokens": self.tokens, "sha256": self.hash.hexdigest()}


@lru_cache(maxsize=1)
def _encoder(name: str | None) -> Encoder:
    return open_encoder(name)
