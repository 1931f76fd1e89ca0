"""The code of a submission is kept: by content, whole, and out of reach of what is done to the checkout."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from harness.launch.slurm.snapshot import CHANGES, FOLDER, changed, other_code, snapshots, take_snapshot
from harness.record.provenance import SNAPSHOT
from harness.system.errors import HarnessError
from tests.planted import PLANTED, leaks


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with the parts that a run depends on, and some that it does not."""
    repository = tmp_path / "checkout"
    for path, text in {
        "harness/train.py": "steps = 1\n",
        "patches/fix.patch": "+ sync\n",
        "README.md": "read me\n",
        ".gitignore": "*.pyc\n",
    }.items():
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).write_text(text)
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    return repository


def test_it_holds_what_a_run_depends_on_as_it_is_in_the_working_tree(checkout: Path, tmp_path: Path) -> None:
    (checkout / "harness" / "train.py").write_text("steps = 2\n")
    (checkout / "harness" / "new.py").write_text("not added yet\n")
    (checkout / "harness" / "train.pyc").write_text("ignored")
    found = take_snapshot(tmp_path / "results", checkout)
    assert set(found.files) == {"harness/train.py", "harness/new.py", "patches/fix.patch"}
    assert (found.folder / "harness" / "train.py").read_text() == "steps = 2\n"


def test_what_is_done_to_the_checkout_does_not_reach_it(checkout: Path, tmp_path: Path) -> None:
    found = take_snapshot(tmp_path / "results", checkout)
    with (checkout / "harness" / "train.py").open("a") as stream:
        stream.write("broken(")
    assert (found.folder / "harness" / "train.py").read_text() == "steps = 1\n"


def test_the_same_content_is_one_snapshot_and_an_equal_file_one_file(checkout: Path, tmp_path: Path) -> None:
    first = take_snapshot(tmp_path / "results", checkout)
    assert take_snapshot(tmp_path / "results", checkout) == first
    (checkout / "harness" / "train.py").write_text("steps = 3\n")
    second = take_snapshot(tmp_path / "results", checkout)
    assert changed(first.files, second.files) == ["harness/train.py"]
    patches = [one.folder / "patches" / "fix.patch" for one in (first, second)]
    assert patches[0].samefile(patches[1])
    assert len(list(snapshots(tmp_path / "results" / FOLDER))) == 2


def test_a_copy_that_was_cut_short_is_made_anew(checkout: Path, tmp_path: Path) -> None:
    found = take_snapshot(tmp_path / "results", checkout)
    (found.folder / SNAPSHOT).unlink()  # written last
    for file in found.folder.rglob("*.py"):
        file.unlink()
    again = take_snapshot(tmp_path / "results", checkout)
    assert (again.folder / "harness" / "train.py").read_text() == "steps = 1\n"


def test_a_folder_without_git_is_taken_whole_but_for_bytecode(checkout: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    (plain / "harness" / "__pycache__").mkdir(parents=True)
    (plain / "harness" / "train.py").write_text("steps = 1\n")
    (plain / "harness" / "__pycache__" / "train.pyc").write_text("")
    assert set(take_snapshot(tmp_path / "results", plain).files) == {"harness/train.py"}


def test_runs_that_had_other_code_are_told_with_what_differs(checkout: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    first = take_snapshot(results, checkout)
    for run_id, code in (("a", first.digest), ("b", first.digest), ("c", None)):
        (results / "runs" / run_id).mkdir(parents=True)
        (results / "runs" / run_id / "allocations.jsonl").write_text(json.dumps({"code": code}) + "\n")
    assert other_code(results, first, ["a", "b"]) == []
    (checkout / "harness" / "train.py").write_text("steps = 4\n")
    now = take_snapshot(results, checkout)
    ours, unkept = other_code(results, now, ["a", "b", "c"])
    assert ours.startswith(f"2 runs that are done had code {first.digest}") and ours.endswith(
        "harness/train.py differs"
    )
    assert "1 run that is done had code that was not kept" in unkept


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("harness/upload.py", f"login({PLANTED['HF_TOKEN']!r})\n"),
        ("experiments/.env", f"\nWANDB_API_KEY={PLANTED['WANDB_API_KEY']}\n"),
        ("slurm/id", "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nabc\n"),
    ],
)
def test_a_file_with_a_secret_is_refused_by_its_name(
    path: str, text: str, checkout: Path, tmp_path: Path
) -> None:
    (checkout / path).parent.mkdir(exist_ok=True)
    (checkout / path).write_text(text)
    with pytest.raises(HarnessError, match=rf"{path}: line \d holds what looks like a secret"):
        take_snapshot(tmp_path / "results", checkout)
    assert leaks(tmp_path / "results") == []


def test_a_secret_that_was_taken_out_is_not_in_what_changed(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "harness.launch.slurm.snapshot.git_state", lambda: {"commit": "c" * 40, "dirty": True}
    )
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (checkout / "harness" / "train.py").write_text(f"steps = 1\nlogin({PLANTED['HF_TOKEN']!r})\n")
    subprocess.run([*git, "commit", "-qam", "with a token"], check=True)
    (checkout / "harness" / "train.py").write_text("steps = 1\n")
    found = take_snapshot(tmp_path / "results", checkout)
    assert "-login('[hidden]')" in (found.folder / CHANGES).read_text()
    assert leaks(tmp_path / "results") == []
