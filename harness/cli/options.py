"""Arguments and options that several verbs share, and where a study's results lie."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.study import Study

StudyArgument = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A study file, or the results folder of one.")
]
ResultsOption = Annotated[Path | None, typer.Option(help="Results folder; default results/<study name>.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.")]


def results_folder(study_path: Path, study: Study, results: Path | None) -> Path:
    """Where a study's results lie: as given, the folder itself when one was named, else results/<name>."""
    if results is not None:
        return results
    return study_path if study_path.is_dir() else Path("results") / study.name
