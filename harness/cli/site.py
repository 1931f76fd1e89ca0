"""Verbs for a study whose runs are on a site that is reached by ssh: they are said there, or on what comes back."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from harness.launch.slurm.profile import Profile
from harness.launch.slurm.site import RECORD, Remote, push, remote
from harness.study import Study, load_study, save_study
from harness.system.errors import HarnessError

Verb = Callable[..., None]


def submit_there(study: Study, folder: Path, profile: Profile, study_file: Path, cluster: Path) -> None:
    """`hpz submit` on the site that the profile names. Raises HarnessError; ends the command."""
    assert profile.site is not None
    save_study(study, folder)
    content = profile.model_dump(mode="json", exclude_defaults=True, exclude={"site"}) | {
        "name": profile.name
    }
    place, there = push(profile.site, folder, study.name, content)
    words = said({str(study_file): place.results, str(cluster): there})
    raise typer.Exit(place.hpz(words))


def there(verb: Verb, *, jobs: bool = False) -> Verb:
    """A verb that is said on the site of its study or run, where it has one; `jobs`: it takes a job's id, too."""

    @functools.wraps(verb)
    def wrapped(**given: Any) -> None:
        word = _named(given)
        if found := place_of(word, given.get("results"), jobs):
            # A study is its results folder there; a job, or a part of a run's id, is the same there.
            instead = {word: found.results} if Path(word).exists() else {}
            raise typer.Exit(found.hpz(said(instead), terminal=sys.stdout.isatty()))
        verb(**given)

    return wrapped


def brought(verb: Verb) -> Verb:
    """A verb of a study that works here on what its runs have written so far on their site, where it has one."""

    @functools.wraps(verb)
    def wrapped(**given: Any) -> None:
        folder = _folder(_named(given), given.get("results"))
        if folder is not None and (found := remote(folder)):
            found.fetch(folder)
        verb(**given)

    return wrapped


def said(instead: Mapping[str, str], words: Sequence[str] | None = None) -> list[str]:
    """The words of this command with those of the site in place of ours, and without --results."""
    places = {Path(ours): theirs for ours, theirs in instead.items()}
    kept, of_results = [], False
    for word in sys.argv[1:] if words is None else words:
        name, equals, value = word.partition("=")
        if not of_results and name != "--results":
            option = equals and name.startswith("--") and Path(value) in places
            kept.append(f"{name}={places[Path(value)]}" if option else places.get(Path(word), word))
        of_results = word == "--results"
    return kept


def _named(given: Mapping[str, Any]) -> str:
    """The study, run or job that a verb was given."""
    return str(next(given[name] for name in ("study_file", "what", "run") if name in given))


def place_of(word: str, results: Path | None, jobs: bool) -> Remote | None:
    """The site that a study, a run or a job is on; None: it is here. HarnessError where it could be on several."""
    folder = _folder(word, results)
    if folder is not None:
        return remote(folder)
    homes = [results] if results else sorted(file.parent for file in Path("results").glob(f"*/{RECORD}"))
    found = {home: place for home in homes if (place := remote(home))}
    if jobs and word.replace("_", "", 1).isdigit():
        if len({place.site for place in found.values()}) > 1:
            raise HarnessError(f"job {word} may be on several sites; give --results with the study's folder")
        return next(iter(found.values()), None)
    runs = ((place, run.run_id) for home, place in found.items() for run in load_study(home).runs)
    return next((place for place, run_id in runs if word in run_id), None)


def _folder(word: str, results: Path | None) -> Path | None:
    """The results folder that is meant, where `word` is a study file or a results folder."""
    path = Path(word)
    if path.is_dir():
        return results or path
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return None
    return results or Path("results") / load_study(path).name
