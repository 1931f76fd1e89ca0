"""Suites under the plugin: what races fails with the report, what does not passes, and their processes are ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

STREAMS = """
import torch

def doubled_on_a_side_stream(*, ordered):
    values, side = torch.zeros(1000, device="cuda"), torch.cuda.Stream()
    values.add_(3.0)
    if ordered:
        side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        result = values * 2
    torch.cuda.current_stream().wait_stream(side)
    return result.sum().item()
"""

SUITE = """
import pytest
import torch
from streams import doubled_on_a_side_stream

def test_racing():
    assert doubled_on_a_side_stream(ordered=False) == 6000

def test_clean():
    assert doubled_on_a_side_stream(ordered=True) == 6000

def test_wrong():
    assert doubled_on_a_side_stream(ordered=True) == 1

@pytest.mark.skip(reason="not today")
def test_skipped():
    assert False

@pytest.mark.xfail(reason="reported upstream")
def test_known():
    assert doubled_on_a_side_stream(ordered=False) == 6000

class TestDistributed:
    is_dist_test = True  # run by the hook in conftest.py, as those of DeepSpeed are

    def test_sum(self):
        total = torch.ones(8, device="cuda")
        torch.distributed.all_reduce(total)
        assert total[0].item() == torch.distributed.get_world_size() == 2

    def test_racing_rank(self):
        if torch.distributed.get_rank() == 1:
            doubled_on_a_side_stream(ordered=False)
"""

CONFTEST = """
import os
import tempfile
import pytest
import torch
import torch.multiprocessing as mp

def rank(rank, store, test):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.distributed.barrier()
    test()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if getattr(item.cls, "is_dist_test", False):
        assert torch.cuda.device_count() >= 2
        mp.set_start_method("forkserver", force=True)
        with tempfile.TemporaryDirectory() as folder:
            pool = mp.Pool(2)
            test = getattr(item.cls(), item.name)
            pool.starmap_async(rank, [(n, f"{folder}/store", test) for n in range(2)]).get(60)
            pool.close()
            pool.join()
        item.runtest = lambda: True
"""

MARKED = """
import pytest
import torch
from streams import doubled_on_a_side_stream

@pytest.mark.hpz_streams(policies=["side-first"])
def test_racing():
    assert doubled_on_a_side_stream(ordered=False) == 6000

@pytest.mark.hpz_streams(policies=["random(1)"], ranks=2)
def test_ranks():
    torch.distributed.init_process_group("nccl")
    total = torch.ones(8, device="cuda")
    torch.distributed.all_reduce(total)
    assert total[0].item() == 2

def test_ordinary():
    assert not torch.cuda.is_available()
"""


BECAME = {"failure": "failed", "error": "failed", "skipped": "skipped"}


class Results:
    """What a suite gave: test → "passed", "failed" or "skipped", and what was said of it."""

    def __init__(self, folder: Path, files: dict[str, str], *options: str) -> None:
        for name, content in files.items():
            (folder / name).write_text(content)
        (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:randomly\njunit_logging = all\n")
        command = [sys.executable, "-m", "pytest", "-q", "-rP", "--junitxml=results.xml", *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert (folder / "results.xml").exists(), done.stdout + done.stderr
        self.output = done.stdout
        self.said, self.became = dict[str, str](), dict[str, str]()
        for case in ElementTree.parse(folder / "results.xml").getroot().iter("testcase"):
            name = case.get("name", "")
            found = next((child for child in case if child.tag in BECAME), None)
            self.became[name] = "passed" if found is None else BECAME[found.tag]
            self.said[name] = "\n".join(f"{child.get('message', '')}\n{child.text}" for child in case)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Results:
    files = {"streams.py": STREAMS, "test_suite.py": SUITE, "conftest.py": CONFTEST}
    return Results(tmp_path_factory.mktemp("suite"), files, "--hpz-streams=side-first")


def test_a_racing_test_fails_with_both_places_and_the_schedule_that_shows_it(suite: Results) -> None:
    assert suite.became["test_racing"] == "failed"
    said = suite.said["test_racing"]
    assert "fails under side-first" in said
    assert "under the order of issue: passed" in said
    assert "values.add_(3.0)" in said
    assert "result = values * 2" in said


def test_a_clean_test_passes(suite: Results) -> None:
    assert suite.became["test_clean"] == "passed"


def test_a_test_that_fails_in_the_order_of_issue_fails_as_it_does_anywhere(suite: Results) -> None:
    assert suite.became["test_wrong"] == "failed"
    assert "assert 6000.0 == 1" in suite.said["test_wrong"]


def test_a_skip_stays_a_skip(suite: Results) -> None:
    assert suite.became["test_skipped"] == "skipped"


def test_a_race_that_is_marked_as_expected_is_one(suite: Results) -> None:
    assert suite.became["test_known"] == "skipped"
    assert "reported upstream" in suite.said["test_known"]


def test_processes_that_a_test_starts_are_ranks(suite: Results) -> None:
    assert suite.became["test_sum"] == "passed"
    assert "TestDistributed::test_sum, 2 ranks" in suite.output


def test_a_race_in_one_of_them_fails_the_test(suite: Results) -> None:
    assert suite.became["test_racing_rank"] == "failed"
    assert "on rank 1" in suite.said["test_racing_rank"]


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(tmp_path_factory.mktemp("marked"), {"streams.py": STREAMS, "test_marked.py": MARKED})


def test_a_marked_test_runs_on_the_virtual_device(marked: Results) -> None:
    assert marked.became["test_racing"] == "failed"
    assert "fails under side-first" in marked.said["test_racing"]


def test_a_mark_may_ask_for_ranks(marked: Results) -> None:
    assert marked.became["test_ranks"] == "passed"
    assert "test_ranks, 2 ranks" in marked.output


def test_the_rest_of_the_suite_keeps_its_device(marked: Results) -> None:
    assert marked.became["test_ordinary"] == "passed"
