"""The default training text: the source of the running interpreter's standard library, as byte-level BPE tokens.

Every machine with Python has it, so a study needs no download. The vocabulary is trained once per text and size with
the tokenizers library (byte-level BPE, Radford et al. 2019), and cached with the tokens.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.study.text import stdlib_sha256, stdlib_text
from harness.system.errors import HarnessError
from harness.system.places import cache_folder

SMALLEST_VOCABULARY = 256  # every byte; with no more than that a token is a byte


def stdlib_tokens(vocab_size: int) -> npt.NDArray[np.int64]:
    """The whole text as token ids below `vocab_size`, memory-mapped.

    Raises HarnessError where the vocabulary is too small for every byte, or the cache folder cannot be written.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise HarnessError(
            f"data.source: stdlib needs a model with vocab_size of at least {SMALLEST_VOCABULARY}, not {vocab_size}; "
            "use a larger one, or another data.source"
        )
    # Another release of the library may break ties another way.
    name = f"{stdlib_sha256()[:16]}-{vocab_size}-{metadata.version('tokenizers')}.npy"
    file = cache_folder() / "tokens" / name
    if not file.exists():
        _once(file, lambda: _tokenise(vocab_size, file))
    tokens: npt.NDArray[np.int64] = np.load(file, mmap_mode="r")
    return tokens


def _once(file: Path, build: Callable[[], None]) -> None:
    """Let one of several processes build the file; the others wait for it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists():
                build()
    except OSError as error:
        raise HarnessError(
            f"{file.parent}: the tokens cannot be cached there ({error.strerror}); free space or set HPZ_CACHE"
        ) from error


def _tokenise(vocab_size: int, file: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer

    # Threads count words in an order that shows in ties; one thread makes the vocabulary a function of the text.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    text = stdlib_text().decode("utf-8", errors="replace")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        text.splitlines(keepends=True), vocab_size=vocab_size, min_frequency=2, show_progress=False
    )
    ids = np.array(tokenizer.encode(text).ids, dtype=np.int64)
    beside = file.with_suffix(f".{os.getpid()}.tmp.npy")
    np.save(beside, ids)
    file.with_suffix(".json").write_text(json.dumps(json.loads(tokenizer.to_str()), indent=1))
    beside.replace(file)
