"""Where a run comes from: versions of what can change a number, and the commit."""

from __future__ import annotations

import json
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from typing import Any

from harness.system.places import REPOSITORY

SNAPSHOT = "snapshot.json"  # in a copy of the code that harness.launch.slurm.snapshot made
PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "numpy", "wandb")


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str | None]:
    """Versions of what can change a number; None where a package is not installed."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@lru_cache(maxsize=1)
def git_state() -> dict[str, Any]:
    """Commit of the repository and whether its tracked files were changed; None outside a checkout, and without git.

    Of a snapshot it is what the checkout had when it was taken.
    """
    if (record := REPOSITORY / SNAPSHOT).exists():
        return dict(json.loads(record.read_text())["git"])

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", REPOSITORY, *words], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            return None  # a machine without git
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed) if changed is not None else None}


def code_snapshot() -> str | None:
    """Digest of the snapshot that this code is; None where it is a checkout or an installation."""
    return REPOSITORY.name if (REPOSITORY / SNAPSHOT).exists() else None
