"""The code of a submission, kept: its tasks run from a copy that no edit, pull or change of branch can reach.

results/<study>/code/<digest>/ holds the files that a run depends on, as they were in the working tree, and
snapshot.json, which names them with their hashes, the commit, and what changed since. The digest is of the content,
so a submission of unchanged code takes the copy that is there; a file that an older copy has, too, is a link to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.record.provenance import SNAPSHOT, git_state
from harness.system.places import REPOSITORY
from harness.system.secrets import hidden, refuse_secrets
from harness.system.utc import utc_now
from harness.system.whole_file import write_json

PARTS = ("harness", "analysis", "patches", "experiments", "slurm", "pyproject.toml", "constraints.txt")
FOLDER = "code"  # in a results folder
CHANGES = "changes.diff"  # beside snapshot.json: what differs from the commit


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code."""

    folder: Path
    digest: str  # over every file's name and content
    files: Mapping[str, str]  # path in the repository → sha256

    def name(self) -> str:
        """For people: the digest, and the commit where there is one."""
        git = json.loads((self.folder / SNAPSHOT).read_text()).get("git") or {}
        commit = (
            f" (commit {git['commit'][:8]}{', changed' if git['dirty'] else ''})" if git.get("commit") else ""
        )
        return f"{self.digest}{commit}"


def take_snapshot(results: Path, repository: Path = REPOSITORY) -> Snapshot:
    """The snapshot of the code as it is now, made where there is none of the same content."""
    files = {path: _sha256(repository / path) for path in sorted(code_files(repository))}
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
    home = results.resolve() / FOLDER
    folder = home / digest
    if not (folder / SNAPSHOT).exists():
        _write(repository, folder, files, list(snapshots(home)))
    return Snapshot(folder, digest, files)


def snapshots(home: Path) -> Iterator[Snapshot]:
    """All whole snapshots in a folder of them."""
    for file in sorted(home.glob(f"*/{SNAPSHOT}")):
        yield Snapshot(file.parent, file.parent.name, json.loads(file.read_text())["files"])


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Which files differ between two snapshots, by path."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def other_code(results: Path, now: Snapshot, runs: Iterable[str]) -> list[str]:
    """What to say where runs that are done were made by other code: a sentence for each snapshot they had."""
    counts: dict[str, int] = {}
    for run_id in runs:
        if (code := code_of(results / "runs" / run_id)) != now.digest:
            counts[code or ""] = counts.get(code or "", 0) + 1
    known = {one.digest: one for one in snapshots(results / FOLDER)}
    said = []
    for digest, count in counts.items():
        runs_are = f"{count} run{'s' if count > 1 else ''} that {'are' if count > 1 else 'is'} done"
        if digest not in known:
            said.append(f"{runs_are} had code that was not kept; what is sent now has {now.name()}")
            continue
        paths = changed(known[digest].files, now.files)
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        said.append(
            f"{runs_are} had code {known[digest].name()}, what is sent now has {now.name()}: "
            f"{', '.join(paths[:3])}{more} differ{'s' if len(paths) == 1 else ''}"
        )
    return said


def code_of(run: Path) -> str | None:
    """The snapshot that a run's last turn ran from; None where none was taken."""
    codes = _codes(run)
    return codes[-1] if codes else None


def codes_of(run: Path) -> set[str]:
    """The snapshots that a run's turns ran from, each that was taken."""
    return {code for code in _codes(run) if code}


def _codes(run: Path) -> list[str | None]:
    """By turn, the snapshot that it ran from; lines that a kill cut short are passed over."""
    codes = []
    try:
        lines = (run / "allocations.jsonl").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        with suppress(ValueError):
            codes.append(json.loads(line).get("code"))
    return codes


def code_files(repository: Path) -> list[str]:
    """Paths of the parts in a repository: those that git would not ignore, or all but bytecode without git."""
    if (repository / SNAPSHOT).exists():
        return list(json.loads((repository / SNAPSHOT).read_text())["files"])
    words = [
        "git",
        "-C",
        str(repository),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        *PARTS,
    ]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        done = None
    if done is not None and done.returncode == 0:
        return [path for path in set(done.stdout.split("\0")) if path and (repository / path).is_file()]
    found = (path for part in PARTS for path in (repository / part, *(repository / part).rglob("*")))
    return [
        str(path.relative_to(repository))
        for path in found
        if path.is_file() and "__pycache__" not in path.parts
    ]


def _write(repository: Path, folder: Path, files: Mapping[str, str], older: list[Snapshot]) -> None:
    """Copy or link every file beside its place and move the whole there, so that a half copy is never taken."""
    kept = {(path, sha256) for one in older for path, sha256 in one.files.items()}
    for path in sorted(path for path, sha256 in files.items() if (path, sha256) not in kept):
        refuse_secrets(repository / path, "a submission keeps a copy of the code")
    beside = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    for path, sha256 in files.items():
        target = beside / path
        target.parent.mkdir(parents=True, exist_ok=True)
        twin = next((one.folder / path for one in older if one.files.get(path) == sha256), None)
        if twin is None or not _linked(twin, target):
            shutil.copy2(repository / path, target)
            target.chmod(target.stat().st_mode & ~0o222)  # a link to it must not be written through
    git = git_state()
    if git["dirty"]:
        words = ["git", "-C", str(repository), "diff", "--binary", "HEAD", "--", *PARTS]
        changes = subprocess.run(words, capture_output=True, check=False).stdout
        # A line that was taken out may have held a secret.
        (beside / CHANGES).write_bytes(hidden(changes.decode("latin-1")).encode("latin-1"))
    content = {"schema_version": 1, "taken_utc": utc_now(), "git": git, "files": dict(files)}
    write_json(beside / SNAPSHOT, content)
    if folder.exists():
        shutil.rmtree(folder)  # without its record, and so not whole
    beside.rename(folder)


def _linked(twin: Path, target: Path) -> bool:
    try:
        target.hardlink_to(twin)
    except OSError:
        return False  # a file system without links
    return True


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
