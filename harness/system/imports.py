"""Imports of torch, transformers and DeepSpeed: made quick, and explained where they fail.

Most often they fail because DeepSpeed and torch are of different years.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.system.errors import HarnessError

OWN_PACKAGES = "HPZ_PACKAGES"
"""The environment variable that names a folder of packages, for an interpreter that is not the one of `hpz`."""

OURS = (
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_extensions",
    "typing_inspection",
    "yaml",
    "_yaml",
    "networkx",
)

NEEDED = {"torch", "deepspeed", "transformers"}


@contextmanager
def quick_imports() -> Iterator[None]:
    """Without the garbage collector, which finds nothing in modules and takes a fifth of the time.

    Later collections pass over what was imported.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()
            gc.enable()


class OwnPackages(MetaPathFinder):
    """Finds what this project needs and a user's environment lacks, and nothing else, in the folder of `hpz`'s own."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [self.folder]) if path is None and name in OURS else None


def use_own_packages() -> None:
    """Let an environment without them have this project's packages; its own come first."""
    if folder := os.environ.pop(OWN_PACKAGES, None):
        sys.meta_path.append(OwnPackages(folder))


@contextmanager
def explained_imports() -> Iterator[None]:
    """Around the imports of a process that is there for ranks: ends it with one sentence where they fail.

    The traceback goes before that to standard error, of which launchers show the last line.
    """
    try:
        with quick_imports():
            yield
    except HarnessError as error:
        sys.exit(str(error))
    except Exception as error:
        traceback.print_exc()
        sys.exit(explanation(error))


def explanation(error: Exception) -> str:
    """One sentence: what could not be imported, how that failed, and what to change."""
    if isinstance(error, ModuleNotFoundError) and error.name in NEEDED:
        return f"{error.name} is not installed here; install this package with its [train] extra"
    last = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no message")
    return (
        f"{deepspeed_here()} cannot be imported with torch {torch_version()} ({type(error).__name__}: {last}); "
        "most likely this torch is not one for that DeepSpeed: take another release of either"
    )


def deepspeed_here() -> str:
    """DeepSpeed as Python would import it, named by its release or, where it does not say that, by its folder."""
    found = PathFinder.find_spec("deepspeed")
    if found is None or found.origin is None:
        return "DeepSpeed"
    folder = Path(found.origin).parent
    build = folder / "git_version_info_installed.py"
    release = re.search(r"^version\s*=\s*'([^']+)'", build.read_text() if build.exists() else "", re.M)
    return f"DeepSpeed {release[1]}" if release else f"DeepSpeed in {folder}"


def torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "of unknown version"
