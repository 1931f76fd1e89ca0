"""Writes the archive of a study: one zip file, the same bytes for the same results, that `sha256sum -c` can check.

It is an RO-Crate (https://w3id.org/ro/crate): ro-crate-metadata.json names every file with its size and hash.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.archive.contents import Entry, entries
from harness.record import RunDirectory
from harness.study import Study, load_study
from harness.system.errors import HarnessError
from harness.system.secrets import HIDDEN
from harness.system.whole_file import write_whole

MANIFEST = "manifest-sha256.txt"  # as sha256sum writes and reads it
METADATA = "ro-crate-metadata.json"
README = "README.md"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file, so that equal results are equal bytes
CHUNK = 1 << 20
ABOUT = {  # by file name
    "study.yaml": "the study as resolved",
    "summary.json": "verdicts, intervals and claims",
    "report.html": "the report, one page that needs no network",
    "runs.parquet": "one row a run",
    "run.json": "the run as resolved, with patch hashes and versions",
    "steps.jsonl": "one line a step",
    "status.json": "how the run ended, with its final record",
    "allocations.jsonl": "which steps ran where on the cluster",
    "environment.jsonl": "what surrounded the run",
    "environment.json": "each distinct surrounding, and the runs that had it",
    "submit.sbatch": "the batch script as submitted",
    "snapshot.json": "the files of the code with their hashes, and its commit",
}


@dataclass(frozen=True)
class Packed:
    """What was written: the file, its hash, how many files it holds, and where secrets were hidden in it."""

    file: Path
    sha256: str
    files: int
    bytes: int
    cleaned: dict[str, int]  # path → how many secrets


@dataclass(frozen=True)
class _Written:
    path: str
    sha256: str
    size: int
    hidden: int


def pack(results: Path, output: Path) -> Packed:
    """Write the archive of a results folder. Raises HarnessError where there is nothing to archive, or no room."""
    study = load_study(results)
    found = entries(results)
    if not any(entry.path.startswith("runs/") or entry.path.startswith("runs.parquet") for entry in found):
        raise HarnessError(f"{results}: holds no runs; run the study first (hpz run or hpz submit)")
    made: list[_Written] = []

    def write(file: Path) -> None:
        made.clear()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            made.extend(_add(archive, entry) for entry in found if entry.path != README)
            made.append(_add(archive, Entry(README, text=_readme(study, results, made))))
            made.append(_add(archive, Entry(METADATA, text=_crate(study, results, made))))
            _add(archive, Entry(MANIFEST, text=_manifest(made)))

    write_whole(output, write)
    cleaned = {one.path: one.hidden for one in made if one.hidden}
    return Packed(output, _sha256(output), len(made) + 1, output.stat().st_size, cleaned)


def _add(archive: zipfile.ZipFile, entry: Entry) -> _Written:
    """Write one file into the archive, hashed on the way."""
    info = zipfile.ZipInfo(entry.path, EPOCH)
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    digest, size = hashlib.sha256(), 0
    clean = entry.cleaned()
    with archive.open(info, "w", force_zip64=True) as target:
        for chunk in _chunks(entry.file) if clean is None else [clean[0].encode()]:
            target.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return _Written(entry.path, digest.hexdigest(), size, clean[1] if clean else 0)


def _chunks(file: Path | None) -> Iterable[bytes]:
    assert file is not None
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(file):
        digest.update(chunk)
    return digest.hexdigest()


def _manifest(made: Iterable[_Written]) -> str:
    return "".join(f"{one.sha256}  {one.path}\n" for one in sorted(made, key=lambda one: one.path))


def _crate(study: Study, results: Path, made: Iterable[_Written]) -> str:
    """The RO-Crate's metadata, as the library for it writes them."""
    from rocrate.rocrate import ROCrate

    crate = ROCrate()
    crate.name = f"{study.name}: results of an hpZ Lab study"
    crate.description = study.question or "A study of ZeRO++ hpZ."
    crate.root_dataset["datePublished"] = _last_end(results)
    for one in made:
        about: dict[str, Any] = {"sha256": one.sha256, "contentSize": str(one.size)}
        if description := ABOUT.get(Path(one.path).name):
            about["description"] = description
        crate.add_file(dest_path=one.path, properties=about)
    return json.dumps(crate.metadata.generate(), indent=1, ensure_ascii=False) + "\n"


def _last_end(results: Path) -> str:
    """When the last run ended, or began where none has: the crate's date, which no later archiving changes."""
    statuses = [RunDirectory(folder).status() for folder in (results / "runs").glob("*")]
    times = [time for status in statuses if (time := status.ended_utc or status.started_utc)]
    return max(times, default="1980-01-01T00:00:00.000Z")


def _readme(study: Study, results: Path, made: list[_Written]) -> str:
    statuses = [RunDirectory(results / "runs" / run.run_id).status().state for run in study.runs]
    states = ", ".join(f"{count} {state}" for state, count in sorted(Counter(statuses).items()))
    paths = {one.path for one in made}
    lines = [
        f"# {study.name}",
        "",
        study.question or "",
        "",
        f"{len(study.runs)} runs: {states}."
        if (results / "runs").is_dir()
        else "Tables of runs, without run directories.",
        "",
        "- Open it: `hpz report FILE.zip`, which checks every hash first; or unzip it and read report.html."
        if "report.html" in paths
        else "- Open it: `hpz report FILE.zip`, which checks every hash and makes the report.",
        f"- Check it without this project: unzip it, then `sha256sum -c {MANIFEST}`.",
        "- `runs/`: what each run was, every step, how it ended, what its ranks said (alike logs once, long ones",
        "  without their middle). `environment.json`: packages, driver, NCCL, topology, variables.",
        "- `code/`: the code that runs had" + _of_checkout(paths),
        "- Left out: checkpoints, stores of wandb.",
    ]
    if cleaned := sum(one.hidden for one in made):
        lines.append(f"- {cleaned} times a token, key or password stood in a text; there it says {HIDDEN}.")
    return "\n".join(lines) + "\n"


def _of_checkout(paths: set[str]) -> str:
    if not any(path.startswith("code/checkout/") for path in paths):
        return "." if any(path.startswith("code/") for path in paths) else " was not kept."
    return (
        "; `checkout/` is the working tree when this was packed, for runs of which no copy was kept: compare the "
        "commit in its git.json with that in run.json."
    )
