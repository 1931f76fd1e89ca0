"""What goes into an archive: every file of a results folder that a reviewer needs, under the path that it has there.

Left out are checkpoints, stores of wandb (made from the same steps), locks, and code that no run had. Text is cleaned
of secrets on the way; the code of runs that were started here, of which no copy was kept, is taken from the checkout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from analysis.archive.logs import compact, read_log, shortened
from harness.launch.slurm.snapshot import CHANGES, FOLDER, code_files, codes_of, snapshots
from harness.record import RunDirectory
from harness.record.environment import environments
from harness.record.provenance import SNAPSHOT, git_state
from harness.system.places import REPOSITORY
from harness.system.secrets import CODE, HIDDEN, hidden

LEFT_OUT = ("checkpoint", "wandb", "lock", "log", "__pycache__")  # folders
TEXT = (".txt", ".json", ".yaml", ".yml", ".jsonl", ".sbatch", ".csv", ".err", ".out", ".toml", "")
AS_IS = (
    *CODE,
    ".html",
    ".svg",
    ".tex",
    ".css",
    ".js",
)  # a name may well be given a value there that is no secret
NUMBERS = ("steps.jsonl",)  # holds nothing else


@dataclass(frozen=True)
class Entry:
    """One file of the archive: its path there, and where its content comes from."""

    path: str
    file: Path | None = None
    text: str | None = None  # in place of `file`

    def cleaned(self) -> tuple[str, int] | None:
        """The content without secrets, and how many it had; None for what is no text and goes in as it is."""
        code = Path(self.path).suffix in AS_IS
        text = self.text
        if text is None:
            assert self.file is not None
            if self.file.name in NUMBERS or not (code or self.file.suffix in TEXT):
                return None
            try:
                text = self.file.read_bytes().decode()
            except UnicodeDecodeError:
                return None
        clean = hidden(text, code=code)
        return clean, clean.count(HIDDEN) - text.count(HIDDEN)


def entries(results: Path) -> list[Entry]:
    """All files of the archive of a results folder, sorted by path, but for those that `pack` makes of them."""
    runs = [RunDirectory(folder) for folder in sorted((results / "runs").glob("*")) if folder.is_dir()]
    found = [
        Entry(file.relative_to(results).as_posix(), file)
        for file in _files(results)
        if file.relative_to(results).parts[0] != FOLDER
    ]
    found += [entry for run in runs for entry in _logs(run)]
    found += _logs_of_jobs(results)
    found += _code(results, runs)
    found.append(Entry("environment.json", text=_environment(runs)))
    return sorted(found, key=lambda entry: entry.path)


def _files(folder: Path) -> Iterator[Path]:
    """Plain files in a folder and those below it, without those that are left out."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_symlink() or path.suffix == ".tmp":
            continue
        if path.is_dir():
            if path.name not in LEFT_OUT:
                yield from _files(path)
        elif path.is_file():
            yield path


def _logs(run: RunDirectory) -> Iterator[Entry]:
    """What a run's ranks said: a text a start."""
    for folder in (*run.earlier_starts(), run.logs):
        files = {int(file.stem.removeprefix("rank-")): file for file in folder.glob("rank-*.txt")}
        if files:
            name = f"{folder.name}.txt" if folder != run.logs else "last.txt"
            text = compact({rank: read_log(file) for rank, file in files.items()})
            yield Entry(f"runs/{run.path.name}/log/{name}", text=text)


def _logs_of_jobs(results: Path) -> Iterator[Entry]:
    for file in sorted(results.glob("slurm/*/log/*.txt")):
        yield Entry(file.relative_to(results).as_posix(), text=shortened(read_log(file)))


def _code(results: Path, runs: list[RunDirectory]) -> Iterator[Entry]:
    """The snapshots that runs had; the checkout, where runs were made from one."""
    had = [codes_of(run.path) for run in runs]
    kept = {one.digest for one in snapshots(results / FOLDER)}
    for digest in sorted(kept & set().union(*had)):
        home = results / FOLDER / digest
        names = [*json.loads((home / SNAPSHOT).read_text())["files"], SNAPSHOT]
        names += [CHANGES] if (home / CHANGES).exists() else []
        yield from (Entry(f"{FOLDER}/{digest}/{name}", home / name) for name in names)
    if not all(codes and codes <= kept for codes in had):
        for name in code_files(REPOSITORY):
            yield Entry(f"{FOLDER}/checkout/{name}", REPOSITORY / name)
        yield Entry(f"{FOLDER}/checkout/git.json", text=json.dumps(git_state(), indent=1) + "\n")


def _environment(runs: list[RunDirectory]) -> str:
    """Each distinct surrounding with the runs that had it: what differs from job to job alone is no difference."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for line in environments(run):
            variables = {k: v for k, v in line.get("variables", {}).items() if not k.startswith("SLURM_")}
            kept = {k: v for k, v in line.items() if k != "utc"} | {"variables": variables}
            text = json.dumps(kept, sort_keys=True)
            if run.path.name not in found.setdefault(text, []):
                found[text].append(run.path.name)
    rows = [{"runs": names, **json.loads(text)} for text, names in sorted(found.items())]
    unknown = [run.path.name for run in runs if not environments(run)]
    return json.dumps({"schema": 1, "environments": rows, "not_recorded": unknown}, indent=1) + "\n"
