"""A study in one file: everything that a reviewer needs, the same bytes again, and damage told by name."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from analysis.archive.logs import compact, shortened
from analysis.archive.pack import MANIFEST, METADATA, pack
from analysis.archive.unpack import check, unpack
from harness.cli.archive import archive
from harness.cli.study import report
from harness.launch.slurm.snapshot import take_snapshot
from harness.record import RunDirectory
from harness.record.environment import record_environment
from harness.system.errors import HarnessError
from tests.planted import PLANTED, leaks
from tests.synthetic import write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")
ENDED = "2026-03-01T12:00:00.000Z"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A finished study whose runs had a snapshot of the code, said something, and were held up by a lock."""
    folder = tmp_path / "made-up"
    study = write_study(folder)
    (tmp_path / "checkout" / "harness").mkdir(parents=True)
    (tmp_path / "checkout" / "harness" / "train.py").write_text("steps = 1\n")
    digest = take_snapshot(folder, tmp_path / "checkout").digest
    for run in study.runs:
        directory = RunDirectory(folder / "runs" / run.run_id)
        directory.update_status(ended_utc=ENDED)
        (directory.path / "allocations.jsonl").write_text(json.dumps({"code": digest}) + "\n")
        record_environment(directory, {"torch": "2.13.0", "nccl": "2.27.3"})
        for rank in range(4):
            (directory.logs / f"rank-{rank}.txt").write_text("hello\n" if rank else "hello from rank 0\n")
        directory.checkpoints.mkdir()
        (directory.checkpoints / "weights").write_bytes(b"heavy")
    return folder


def names(file: Path) -> set[str]:
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def text(file: Path, name: str) -> str:
    with zipfile.ZipFile(file) as archive:
        return archive.read(name).decode()


def first_run(results: Path) -> str:
    return sorted(folder.name for folder in (results / "runs").iterdir())[0]


def test_it_holds_results_code_logs_environment_and_hashes(results: Path) -> None:
    packed = pack(results, results.with_suffix(".zip"))
    found, run = names(packed.file), f"runs/{first_run(results)}"
    assert {"study.yaml", "README.md", METADATA, MANIFEST, "environment.json"} <= found
    assert {f"{run}/{name}" for name in ("run.json", "steps.jsonl", "status.json", "log/last.txt")} <= found
    assert any(name.startswith("code/") and name.endswith("harness/train.py") for name in found)
    assert not any("checkpoint" in name.split("/") or ".lock" in name or "checkout" in name for name in found)
    (environment,) = json.loads(text(packed.file, "environment.json"))["environments"]
    assert environment["torch"]["nccl"] == "2.27.3" and len(environment["runs"]) > 1
    assert (
        text(packed.file, f"{run}/log/last.txt") == "== rank 0\nhello from rank 0\n== ranks 1, 2, 3\nhello\n"
    )


def test_the_same_results_are_the_same_bytes(results: Path, tmp_path: Path) -> None:
    first = pack(results, tmp_path / "one.zip")
    for file in results.rglob("*"):
        file.touch()
    assert pack(results, tmp_path / "two.zip").sha256 == first.sha256
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_it_is_an_ro_crate_that_names_every_file_with_its_hash(results: Path) -> None:
    packed = pack(results, results.with_suffix(".zip"))
    graph = {entity["@id"]: entity for entity in json.loads(text(packed.file, METADATA))["@graph"]}
    assert graph["./"]["datePublished"] == ENDED and "made-up" in graph["./"]["name"]
    assert graph["ro-crate-metadata.json"]["conformsTo"]["@id"].startswith("https://w3id.org/ro/crate/")
    hashes = check(packed.file)
    listed = {name for name in hashes if name != METADATA}
    assert {part["@id"] for part in graph["./"]["hasPart"]} == listed
    assert all(graph[name]["sha256"] == hashes[name] for name in listed)


def test_sha256sum_checks_it_without_this_project(results: Path, tmp_path: Path) -> None:
    packed = pack(results, results.with_suffix(".zip"))
    with zipfile.ZipFile(packed.file) as archive:
        archive.extractall(tmp_path / "plain")
    words = ["sha256sum", "--check", "--strict", "--quiet", MANIFEST]
    subprocess.run(words, cwd=tmp_path / "plain", check=True)


def test_runs_of_a_checkout_get_the_checkout(results: Path) -> None:
    for file in results.glob("runs/*/allocations.jsonl"):
        file.unlink()
    packed = pack(results, results.with_suffix(".zip"))
    assert {"code/checkout/harness/record/directory.py", "code/checkout/git.json"} <= names(packed.file)
    assert "compare the commit" in " ".join(text(packed.file, "README.md").split())


def test_no_secret_gets_in_and_it_is_said_where_one_stood(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = results / "runs" / first_run(results) / "log" / "rank-3.txt"
    log.write_text("\n".join(PLANTED.values()))  # as a program that is not ours may have printed them
    (results / "notes.txt").write_text(f"HF_TOKEN={PLANTED['HF_TOKEN']}\n")
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    packed = pack(results, tmp_path / "a.zip")
    assert packed.cleaned == {"notes.txt": 1, f"runs/{first_run(results)}/log/last.txt": len(PLANTED)}
    unpack(packed.file, tmp_path / "opened")
    assert leaks(tmp_path / "opened") == []


def damaged(source: Path, target: Path, name: str, content: bytes | None) -> Path:
    """A copy of an archive with one file changed, left out (None) or added."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for one in before.namelist():
            if one != name:
                after.writestr(one, before.read(one))
        if content is not None:
            after.writestr(name, content)
    return target


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("study.yaml", b"name: other\n", r"damaged: study\.yaml is not what was archived"),
        ("study.yaml", None, r"damaged: study\.yaml is missing"),
        ("more.txt", b"", r"damaged: more\.txt was added"),
        (MANIFEST, b"nonsense", rf"damaged: {MANIFEST} is no list of hashes"),
        (MANIFEST, None, rf"holds no {MANIFEST}, so hpz archive did not make it"),
        ("../out.txt", b"", r"'\.\./out\.txt' would be written outside"),
    ],
)
def test_what_is_wrong_with_an_archive_is_named(
    name: str, content: bytes | None, message: str, results: Path, tmp_path: Path
) -> None:
    file = damaged(pack(results, tmp_path / "a.zip").file, tmp_path / "b.zip", name, content)
    with pytest.raises(HarnessError, match=rf"b\.zip: {message}"):
        unpack(file, tmp_path / "opened")
    assert not (tmp_path / "opened").exists()


def test_a_flipped_bit_is_told_by_the_files_name(results: Path, tmp_path: Path) -> None:
    file = pack(results, tmp_path / "a.zip").file
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo("study.yaml")
    content = bytearray(file.read_bytes())
    content[info.header_offset + 30 + len("study.yaml") + 20 + info.compress_size // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(HarnessError, match=r"damaged: study\.yaml "):
        check(file)


def test_one_that_was_cut_short_is_no_archive(results: Path, tmp_path: Path) -> None:
    file = pack(results, tmp_path / "a.zip").file
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(HarnessError, match=r"a\.zip: damaged, or no archive at all"):
        check(file)


def test_a_folder_of_something_else_is_left_alone(results: Path, tmp_path: Path) -> None:
    file = pack(results, tmp_path / "a.zip").file
    (tmp_path / "mine").mkdir()
    with pytest.raises(
        HarnessError, match="is there already and is not of this archive; give another --results"
    ):
        unpack(file, tmp_path / "mine")
    assert unpack(file, tmp_path / "opened") == unpack(file, tmp_path / "opened")


def test_a_study_without_runs_is_not_archived(tmp_path: Path) -> None:
    write_study(tmp_path / "empty", lambda run: None)
    with pytest.raises(HarnessError, match="holds no runs; run the study first"):
        pack(tmp_path / "empty", tmp_path / "a.zip")


@pytest.mark.usefixtures("svg_alone")
def test_the_command_packs_and_report_opens_what_it_packed(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive(results, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["file"] == str(results.with_suffix(".zip")) and said["cleaned"] == {}
    report(Path(said["file"]))
    assert f"all {said['files'] - 1} files are as they were archived" in capsys.readouterr().err
    assert (results.with_name("made-up-opened") / "report.html").exists()


def test_logs_lose_their_middle_and_what_is_alike_is_kept_once() -> None:
    assert shortened("a\n" * 10, 2, 3) == "a\na\n[… 5 lines left out …]\na\na\na\n"
    assert shortened("a\nb", 1, 1) == "a\nb"
    assert compact({0: "x", 2: "y\n", 1: "x"}) == "== ranks 0, 1\nx\n== rank 2\ny\n"
