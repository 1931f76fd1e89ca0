"""Lock files of interrupted builds of C++ extensions, on which everything that needs the extension waits for ever.

Torch creates `lock` in an extension's build folder, keeps it open while it builds, and others wait until it is gone
(torch/utils/file_baton.py). A build that is killed leaves it behind.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LOCK = "lock"


def extensions_folder() -> Path:
    """Where torch builds extensions for this user: $TORCH_EXTENSIONS_DIR, else torch_extensions in the user's cache."""
    if own := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(own)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "torch_extensions"


def dead_locks(folder: Path | None = None) -> list[Path]:
    """Locks that no process of this machine has open; a build on another one that shares the folder is not seen.

    Of torch's own folder, those of the installed torch: builds for a CPU and for each CUDA lie apart there.
    """
    build = "*" if folder or os.environ.get("TORCH_EXTENSIONS_DIR") or not _torch_is_for_cpu() else "*_cpu*"
    folder = folder or extensions_folder()
    locks = [*folder.glob(f"*/{LOCK}"), *folder.glob(f"{build}/*/{LOCK}")]
    opened = _opened() if locks else set()
    return sorted(lock for lock in locks if lock.is_file() and str(lock.resolve()) not in opened)


def sentence(lock: Path) -> str:
    """What a dead lock does and how it ends."""
    return (
        f"{lock} was left by an interrupted build of a C++ extension: whatever needs {lock.parent.name} waits for it "
        f"without an end. If nothing builds it on another machine, remove it: rm {lock}"
    )


def _torch_is_for_cpu() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def _opened() -> set[str]:
    """Files that processes have open, as far as this user may see."""
    found: set[str] = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found.add(str(entry.readlink()))
        except OSError:
            continue  # it has ended, or it is someone else's
    return found
