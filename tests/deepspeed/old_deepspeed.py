"""A DeepSpeed that is older than the torch that is installed here, as far as it gets: it fails as it is imported."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

TOO_OLD = (
    f"DeepSpeed 0.9.1 cannot be imported with torch {version('torch')} "
    "(ImportError: cannot import name 'inf' from 'torch._six'); "
    "most likely this torch is not one for that DeepSpeed: take another release of either"
)


def old_deepspeed(root: Path) -> Path:
    """The folder to put on PYTHONPATH for it."""
    package = root / "old" / "deepspeed"
    package.mkdir(parents=True)
    (package / "git_version_info_installed.py").write_text("version='0.9.1'\n")
    (package / "__init__.py").write_text(
        "raise ImportError(\"cannot import name 'inf' from 'torch._six'\")\n"
    )
    return package.parent
