"""Bytes of a file, a folder or standard input as text: encodings, compression, and what terminals leave behind."""

from __future__ import annotations

import codecs
import gzip
import re
import sys
from pathlib import Path

from harness.system.errors import HarnessError

STANDARD_INPUT = Path("-")
BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",  # as PowerShell writes what it redirects
    codecs.BOM_UTF16_BE: "utf-16",
}
TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|[\x00\x08]")
GZIP = b"\x1f\x8b"


def read_bytes(path: Path, hint: str) -> bytes:
    """The bytes of a file, or of standard input for `-`, unpacked where packed. Raises HarnessError with `hint`."""
    try:
        return unpacked(sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes())
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise HarnessError(f"{path}: cannot be read ({reason}); {hint}") from error


def unpacked(content: bytes) -> bytes:
    """Bytes as they were before gzip, where that was used."""
    return gzip.decompress(content) if content.startswith(GZIP) else content


def as_text(content: bytes, source: str, hint: str) -> str:
    """Text without byte order mark, colours and carriage returns. Raises HarnessError for what is no text."""
    encoding = next((name for mark, name in BOMS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        if b"\x00" in content[:4096] or content.startswith(b"\x89PNG"):
            raise HarnessError(f"{source}: is not text; {hint}") from None
        text = content.decode("cp1252", errors="replace")  # a progress bar or a quote in another encoding
    return TERMINAL.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
