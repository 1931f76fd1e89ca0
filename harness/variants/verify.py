"""Proves that an overlay is the variant it is said to be: hashes, syntax tree, and what Python really loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.system.errors import HarnessError
from harness.variants.apply import apply_patches, hashes
from harness.variants.families import PACKAGE
from harness.variants.fit import texts
from harness.variants.overlay import MANIFEST, build_overlay, check_overlay
from harness.variants.series import TABLE, Series, sha256
from harness.variants.sources import resolve
from harness.variants.syntax import FILES, syntax_findings
from harness.variants.variant import Variant

_PROBE = """
import hashlib, importlib, json, sys
found = {}
for name in json.loads(sys.argv[1]):
    module = importlib.import_module("deepspeed." + name.removesuffix(".py").replace("/", "."))
    found[name] = [module.__file__, hashlib.sha256(open(module.__file__, "rb").read()).hexdigest()]
print("PROBE " + json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was proved of one overlay."""

    variant: str
    release: str
    path: Path
    """The overlay folder."""
    hashes: dict[str, str]
    """Touched file → sha256, as found and, of a pinned release, as pinned."""
    loaded: dict[str, str] | None
    """File under test → the path that Python loaded it from; None where the import was not asked for."""


def verify(
    variant: Variant, release: str | None = None, source: Path | None = None, *, imports: bool = True
) -> Verification:
    """Proves an overlay again, building it if need be. Raises HarnessError with the first thing that is not so.

    `imports=False` leaves out the import, which takes seconds and needs torch.
    """
    series, folder = resolve(release, source)
    return verify_overlay(build_overlay(variant, series, folder), variant, series, folder, imports=imports)


def verify_overlay(
    path: Path, variant: Variant, series: Series, source: Path, *, imports: bool = True
) -> Verification:
    """As `verify`, for an overlay folder that is there. Raises HarnessError."""
    check_overlay(path)
    check_syntax(path / PACKAGE, variant, series, source)
    return Verification(
        variant=variant.name,
        release=series.release,
        path=path,
        hashes=_pinned_hashes(path, variant, series, source),
        loaded=loaded_files(path) if imports else None,
    )


def check_syntax(package: Path, variant: Variant, series: Series, source: Path) -> None:
    """Raises HarnessError unless the ordering is where the variant wants it, and nothing else was changed."""
    pristine = texts(apply_patches(series.base, source), source)
    for finding in syntax_findings(variant, texts({}, package), pristine, series.family):
        raise HarnessError(f"overlay {package.parent} is not {variant.name}: {finding}")


def loaded_files(path: Path) -> dict[str, str]:
    """Imports DeepSpeed from the overlay in a process of its own; file under test → where it was loaded from.

    Raises HarnessError where the import fails or reads another file.
    """
    environment = {"DS_ACCELERATOR": "cpu", **os.environ, "PYTHONPATH": str(path), "LOCAL_SIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, json.dumps(FILES)],
        env=environment, cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    line = next((line for line in done.stdout.splitlines() if line.startswith("PROBE ")), None)
    if done.returncode or line is None:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise HarnessError(f"overlay {path}: DeepSpeed cannot be imported from it ({last})")
    found: dict[str, list[str]] = json.loads(line.removeprefix("PROBE "))
    for name, (file, digest) in found.items():
        if Path(file) != path / PACKAGE / name or digest != sha256(path / PACKAGE / name):
            raise HarnessError(f"overlay {path}: Python loads {name} from {file}, not from the overlay")
    return {name: file for name, (file, _) in found.items()}


def _pinned_hashes(path: Path, variant: Variant, series: Series, source: Path) -> dict[str, str]:
    """Touched files against the table of releases, all others against the release's own."""
    pinned = {**series.before, **series.after(variant)} if series.pinned else {}
    for name, digest in sorted(pinned.items()):
        if sha256(path / PACKAGE / name) != digest:
            raise HarnessError(f"overlay {path}: {name} is not what patches/{TABLE} pins for {variant.name}")
    touched = pinned or hashes(apply_patches(series.patches_of(variant), source))
    manifest: dict[str, str] = json.loads((path / MANIFEST).read_text())["files"]
    for name in manifest:
        inside = name.removeprefix(f"{PACKAGE}/")
        if inside != name and inside not in touched and sha256(source / inside) != manifest[name]:
            raise HarnessError(f"overlay {path}: {inside} is not the file of {source}")
    return dict(sorted(touched.items()))
