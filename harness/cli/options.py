"""Arguments and options that several verbs share, and where a study's results lie."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.study import Study
from harness.variants import UNPINNED, installed_release, source_release, split_release

StudyArgument = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A study file, or the results folder of one.")
]
ResultsOption = Annotated[Path | None, typer.Option(help="Results folder; default results/<study name>.")]
ReleaseOption = Annotated[
    str | None, typer.Option(help="Use this DeepSpeed release in place of those that the study names.")
]
A_MODEL = "a model file or its name, a folder with a config.json, a config.json, or a name on the Hub"
UnpinnedOption = Annotated[
    bool,
    typer.Option(
        "--unpinned", help="Take the patches that apply to a release, or a build, that is not known."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.")]


def named_path(text: str) -> Path:
    """A path that is not empty, as an unset variable of a shell would leave it. Raises typer.BadParameter."""
    if not text.strip():
        raise typer.BadParameter("the path is empty (an unset shell variable?); name a file or a folder")
    return Path(text)


def results_folder(study_path: Path, study: Study, results: Path | None, release: str | None = None) -> Path:
    """Where a study's results lie: as given, the folder itself when one was named, else results/<name>.

    A `release` that was put in place of the study's own keeps them apart, in results/<name>-<release>.
    """
    if results is not None:
        return results
    if study_path.is_dir() and release is None:
        return study_path
    return Path("results") / "-".join([study.name, *(release or "").split()])


def wanted_release(release: str | None, unpinned: bool, source: Path | None = None) -> str | None:
    """The release as asked for, by default that of `source` or the installed one, marked with `--unpinned`."""
    name = release or (source_release(source) if source else None)
    if not unpinned:
        return name
    name = name or installed_release()
    return f"{split_release(name)[0]} {UNPINNED}" if name else None
