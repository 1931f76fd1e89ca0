"""Writing a file whole or not at all, so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.system.errors import HarnessError


def write_whole(file: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` make the file beside, then rename it. Raises HarnessError on a full or read-only disk."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise HarnessError(
            f"{file}: cannot be written ({error.strerror}); free space or give another place"
        ) from error
    return file


def write_text_whole(file: Path, text: str) -> Path:
    """`text` as the whole content of `file`. Raises HarnessError as `write_whole` does."""
    return write_whole(file, lambda beside: beside.write_text(text))


def write_json(file: Path, content: Any) -> None:
    """Write it whole or not at all. Raises HarnessError on a full or read-only disk."""
    write_text_whole(file, json.dumps(content, indent=1) + "\n")
