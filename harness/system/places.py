"""Where patches, models, profiles, templates and the code itself lie: in a checkout, or as laid out from a wheel.

A wheel carries what a checkout has beside the packages in `harness/_shipped` (setup.py puts it there). On first use
all of it, with the packages, is copied into one folder of the cache that looks like a checkout. So everything else
finds one layout, and children find the code without what else is installed beside it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from importlib import resources
from pathlib import Path

from harness.system.errors import HarnessError

SHIPPED = "_shipped"
CONTENT = "content.sha256"  # in it: hash of everything in the wheel


def cache_folder() -> Path:
    """`$HPZ_CACHE`, else `$XDG_CACHE_HOME/hpz-lab`, else `~/.cache/hpz-lab`; not created here."""
    if own := os.environ.get("HPZ_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "hpz-lab"


def shipped(path: Path) -> Path:
    """`path` as given; where there is no such file and one of that name is shipped (experiments/…, slurm/…), that."""
    return REPOSITORY / path if not path.exists() and (REPOSITORY / path).is_file() else path


def _repository() -> Path:
    package = Path(str(resources.files("harness"))).resolve()
    return laid_out(package) if (package / SHIPPED).is_dir() else package.parent


def laid_out(package: Path) -> Path:
    """An installed package as a checkout would be, in the cache; made where it is not there. Raises HarnessError."""
    shipped = package / SHIPPED
    content = (shipped / CONTENT).read_text()
    tree = cache_folder() / "installed" / hashlib.sha256(f"{package}\n{content}".encode()).hexdigest()[:16]
    if tree.is_dir():
        return tree
    beside = tree.with_name(f".{tree.name}-{os.getpid()}")
    try:
        shutil.copytree(shipped, beside, ignore=shutil.ignore_patterns(CONTENT))
        for name in ("harness", "analysis"):
            unwanted = shutil.ignore_patterns(SHIPPED, "__pycache__")
            shutil.copytree(package.parent / name, beside / name, ignore=unwanted)
        try:
            beside.rename(tree)
        except OSError:
            if not tree.is_dir():
                raise  # else another process was first
            shutil.rmtree(beside)
    except OSError as error:
        raise HarnessError(
            f"{error.filename or tree}: cannot be written ({error.strerror}), and hpz lays out there what it ships; "
            "set HPZ_CACHE to a folder that can"
        ) from error
    return tree


REPOSITORY = _repository()
