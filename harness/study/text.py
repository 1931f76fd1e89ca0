"""The default training text, which every machine has: the source of the running interpreter's standard library."""

from __future__ import annotations

import hashlib
import sysconfig
from functools import lru_cache
from pathlib import Path

TEXT_BYTES = 2_000_000  # more than a toy can learn, and tokenised in about a second


@lru_cache(maxsize=1)
def stdlib_text() -> bytes:
    """The top-level modules, in the order of their names, up to TEXT_BYTES."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return b"".join(file.read_bytes() for file in files)[:TEXT_BYTES]


@lru_cache(maxsize=1)
def stdlib_sha256() -> str:
    """Identifies the text; it differs between releases of Python."""
    return hashlib.sha256(stdlib_text()).hexdigest()
