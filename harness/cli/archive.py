"""`hpz archive`: a study in one file for a reviewer; `hpz report FILE` opens it again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import JsonOption, ResultsOption, StudyArgument, results_folder
from harness.study import load_study


def archive(
    study_file: StudyArgument,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Default: the results folder's name with .zip, beside it."),
    ] = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put results, code, logs, environment and hashes into one file. Example: hpz archive results/laptop"""
    from analysis.archive.pack import pack

    folder = results_folder(study_file, load_study(study_file), results)
    packed = pack(folder, output or folder.with_name(f"{folder.resolve().name}.zip"))
    if as_json:
        print(json.dumps({**vars(packed), "file": str(packed.file)}))
        return
    for path, count in packed.cleaned.items():
        print(f"{path}: {count} secret{'s' if count > 1 else ''} hidden", file=sys.stderr)
    if not (folder / "report.html").exists():
        print(f"It holds no report yet; one that does: hpz report {folder}, then this again", file=sys.stderr)
    print(f"{packed.file}: {packed.files} files, {packed.bytes / 1e6:.1f} MB, sha256 {packed.sha256}")
    print(f"Open it with: hpz report {packed.file}")


def is_archive(path: Path) -> bool:
    """Whether a path is meant as an archive, whole or not."""
    return path.suffix == ".zip" and path.is_file()


def opened(file: Path, results: Path | None) -> Path:
    """The folder that an archive is opened into, by default beside it, once every hash is right."""
    from analysis.archive.unpack import unpack

    folder = results or file.with_name(f"{file.stem}-opened")
    count = unpack(file, folder)
    print(f"{file}: all {count} files are as they were archived; opened in {folder}", file=sys.stderr)
    return folder
