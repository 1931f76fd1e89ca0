"""What the pytest plugin takes and refuses, and that it is no weight on a suite that does not use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.suite.plugin import Wanted, policies_of

pytest_plugins = ["pytester"]


def test_policies_are_named_with_commas_between() -> None:
    assert policies_of("side-first,random(3),timed(1,slow,h100)") == (
        "side-first",
        "random(3)",
        "timed(1,slow,h100)",
    )


def test_no_policy_means_the_analysis_alone() -> None:
    assert policies_of("none") == ()


def test_a_folder_in_place_of_a_policy_is_refused_with_the_way_to_write_it() -> None:
    with pytest.raises(ValueError, match=r"'tests/' is no policy.*--hpz-streams=side-first"):
        policies_of("tests/")


def test_by_default_a_test_runs_under_both_extremes_by_one_process() -> None:
    assert Wanted().policies == ("side-first", "main-first")
    assert Wanted().ranks == 1


@pytest.mark.parametrize(
    ("mark", "sentence"),
    [
        ("ranks=0", "*give a whole number from 1*"),
        ("policies=['nasty']", "*'nasty' is no policy*"),
        ("rank=2", "*the mark hpz_streams is written*"),
    ],
)
def test_a_mark_that_says_nothing_ends_the_session_before_its_first_test(
    pytester: pytest.Pytester, mark: str, sentence: str
) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.hpz_streams({mark})\ndef test_one(): pass")
    result = pytester.runpytest_inprocess("-p", "no:randomly")
    result.stderr.fnmatch_lines([sentence])


def test_unused_it_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(
        "import sys\n"
        "def test_light():\n"
        "    assert not {'torch', 'deepspeed', 'pydantic', 'pandas', 'harness.race'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_random_priorities_take_a_seed_or_all_three_numbers() -> None:
    assert policies_of("pct(1),pct(2,3,100)") == ("pct(1)", "pct(2,3,100)")
    with pytest.raises(ValueError, match="is no policy"):
        policies_of("pct(2,3)")
