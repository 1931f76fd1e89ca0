"""Overlays: a copy of DeepSpeed with one variant's patches, content-addressed, to be put first on PYTHONPATH."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from importlib.util import cache_from_source
from pathlib import Path

from harness.system.errors import HarnessError
from harness.system.places import cache_folder
from harness.variants.apply import apply_patches, check_hashes, patched_files
from harness.variants.families import PACKAGE, touched_files
from harness.variants.series import Series, sha256
from harness.variants.sources import resolve
from harness.variants.variant import Variant

MANIFEST = "overlay.json"


def overlay_path(variant: Variant, release: str | None = None, source: Path | None = None) -> Path:
    """The folder to put first on PYTHONPATH for `variant`; built if need be, checked if it is there.

    `release` defaults to the installed DeepSpeed, `source` (a `deepspeed` package folder) to that release as
    installed or fetched. Safe to call from several processes at once. Raises HarnessError.
    """
    series, folder = resolve(release, source)
    return build_overlay(variant, series, folder)


def build_overlay(variant: Variant, series: Series, folder: Path) -> Path:
    """As `overlay_path`, for a series and its unpatched package folder."""
    name = f"{PACKAGE}-{series.release.replace(' ', '-')}-{_address(series, variant, folder)}"
    path = cache_folder() / "overlays" / name
    try:
        if not path.is_dir():
            _build(series, variant, folder, path)
    except OSError as error:
        raise HarnessError(
            f"{path.parent}: cannot build an overlay there ({error.strerror or error}); "
            "make room, or name another folder with HPZ_CACHE"
        ) from error
    check_overlay(path)
    return path


def overlay_with(overlay: Path, patch: Path) -> Path:
    """A copy of an overlay with one more patch applied; built if need be. Raises HarnessError."""
    path = overlay.with_name(f"{overlay.name}-{sha256(patch)[:16]}")
    if not path.is_dir():
        source = overlay / PACKAGE
        release = json.loads((overlay / MANIFEST).read_text())["release"]
        _write(f"{release} + {patch.name}", source, apply_patches([patch.resolve()], source), path)
    check_overlay(path)
    return path


def check_overlay(path: Path) -> None:
    """Raises HarnessError where a file of the overlay is not what was built, is missing, or was added."""
    try:
        expected: dict[str, str] = json.loads((path / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HarnessError(
            f"overlay {path}: {MANIFEST} is unreadable; delete the folder and run again"
        ) from error
    found = {name: sha256(path / name) for name in _files(path) if name != MANIFEST}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            how = "added" if name not in expected else "removed" if name not in found else "altered"
            raise HarnessError(
                f"overlay {path}: {name} was {how} after it was built; delete the folder and run again"
            )


def _address(series: Series, variant: Variant, source: Path) -> str:
    """What the overlay's content follows from: the release, the patched files, and the package they go into."""
    files = [(name, (source / name).stat().st_size) for name in _files(source)]
    build = source / "git_version_info_installed.py"  # for which torch and device DeepSpeed was installed
    content = [
        series.release,
        series.after(variant) if series.pinned else [sha256(path) for path in series.patches_of(variant)],
        []
        if series.pinned
        else [sha256(source / name) for name in touched_files(series.patches_of(variant))],
        files,
        build.read_text() if build.exists() else "",
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _files(folder: Path) -> list[str]:
    """Every file under `folder`, relative, sorted, without Python's byte-code caches."""
    found: list[str] = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [(Path(base) / name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def _build(series: Series, variant: Variant, source: Path, path: Path) -> None:
    patched = patched_files(series, variant, source)
    check_hashes(series, variant, patched)
    _write(series.release, source, patched, path)


def _write(release: str, source: Path, patched: dict[str, bytes], path: Path) -> None:
    """Builds beside `path` and renames: whoever comes first wins, and nobody sees half an overlay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=".building-"))
    try:
        work.chmod(0o755)
        _fill(work, source, patched)
        digests = {name: sha256(work / name) for name in _files(work)}
        manifest = {"schema": 1, "release": release, "files": digests}
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        _publish(work, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(work: Path, path: Path) -> None:
    try:
        work.rename(path)
    except OSError:
        if not path.is_dir():  # else another process built the same content
            raise


def _fill(work: Path, source: Path, patched: dict[str, bytes]) -> None:
    for name in _files(source):
        target = work / PACKAGE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in patched:
            target.write_bytes(patched[name])
        else:
            _link(source / name, target)
            _link_bytecode(source / name, target)


def _link_bytecode(original: Path, target: Path) -> None:
    """What Python has compiled of the original serves its copy: without it every rank would compile DeepSpeed anew."""
    compiled = Path(cache_from_source(str(original)))
    if target.suffix == ".py" and compiled.is_file():
        beside = Path(cache_from_source(str(target)))
        beside.parent.mkdir(exist_ok=True)
        _link(compiled, beside)


def _link(original: Path, target: Path) -> None:
    """A hard link where the file system allows it, else a copy."""
    try:
        os.link(original, target)
    except OSError:
        shutil.copy2(original, target)
