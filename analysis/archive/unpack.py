"""Opens an archive: every file is checked against the manifest first, and what is damaged is named."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from analysis.archive.pack import CHUNK, MANIFEST
from harness.system.errors import HarnessError

# What the reader of zip files raises for bytes that are not what was written: in a file, its header or its flags.
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
)
AGAIN = "get it again from whoever made it"


def check(path: Path) -> dict[str, str]:
    """The hash of each file of an archive, once all are right.

    Raises HarnessError naming the first file that is damaged, missing or not in the manifest.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _checked(archive, path)
    except (zipfile.BadZipFile, NotImplementedError, OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: damaged, or no archive at all ({error}); {AGAIN}") from error


def unpack(path: Path, folder: Path) -> int:
    """Check an archive and write its files into `folder`; returns how many. One that holds it already is left as it is.

    Raises HarnessError for a damaged archive, and for a folder that holds something else.
    """
    hashes = check(path)
    with zipfile.ZipFile(path) as archive:
        manifest = archive.read(MANIFEST)
        if folder.exists():
            if not (folder / MANIFEST).is_file() or (folder / MANIFEST).read_bytes() != manifest:
                raise HarnessError(
                    f"{folder}: is there already and is not of this archive; give another --results"
                )
            return len(hashes)
        beside = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            archive.extractall(beside)
            beside.rename(folder)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise HarnessError(
                f"{folder}: cannot be written ({error.strerror}); give another --results"
            ) from error
    return len(hashes)


def _checked(archive: zipfile.ZipFile, path: Path) -> dict[str, str]:
    names = {name for name in archive.namelist() if not name.endswith("/")}
    if MANIFEST not in names:
        raise HarnessError(
            f"{path}: holds no {MANIFEST}, so hpz archive did not make it; give one that it made"
        )
    if odd := sorted(name for name in names if not _inside(name)):
        raise HarnessError(f"{path}: {odd[0]!r} would be written outside of the folder; {AGAIN}")
    expected = _manifest(archive, path)
    if missing := sorted(expected.keys() - names):
        raise HarnessError(f"{path}: damaged: {missing[0]} is missing; {AGAIN}")
    if more := sorted(names - expected.keys() - {MANIFEST}):
        raise HarnessError(f"{path}: damaged: {more[0]} was added after it was made; {AGAIN}")
    for name, sha256 in sorted(expected.items()):
        if _sha256(archive, name, path) != sha256:
            raise HarnessError(f"{path}: damaged: {name} is not what was archived; {AGAIN}")
    return expected


def _manifest(archive: zipfile.ZipFile, path: Path) -> dict[str, str]:
    text = _read(archive, MANIFEST, path).decode(errors="replace")
    pairs = [line.split("  ", 1) for line in text.splitlines()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise HarnessError(f"{path}: damaged: {MANIFEST} is no list of hashes; {AGAIN}")
    return {name: sha256 for sha256, name in pairs}


def _sha256(archive: zipfile.ZipFile, name: str, path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with archive.open(name) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    except UNREADABLE as error:
        raise HarnessError(f"{path}: damaged: {name} cannot be read ({error}); {AGAIN}") from error
    return digest.hexdigest()


def _read(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except UNREADABLE as error:
        raise HarnessError(f"{path}: damaged: {name} cannot be read ({error}); {AGAIN}") from error


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name
