"""Which words of a command go to a site that is reached by ssh, and to which (tests/slurm says them to a real sshd)."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import site as verbs
from harness.launch.slurm.profile import load_profile
from harness.launch.slurm.site import RECORD, Remote, Site, remote
from harness.study import load_study, save_study
from harness.system.errors import HarnessError
from tests.conftest import StudyFile

SITE = Site(ssh="me@cluster", folder="/scratch/me/hpz")
PLACE = Remote(site=SITE, results="results/tiny", code="0123")


@pytest.fixture
def results(tmp_path: Path, study_file: StudyFile, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A laptop's folder with a study whose runs are on a site."""
    monkeypatch.chdir(tmp_path)
    folder = Path("results") / "tiny"
    save_study(load_study(study_file()), folder)
    (folder / RECORD).write_text(PLACE.model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ("status results/tiny --json", "status results/tiny --json"),
        ("status ./mine/tiny.yaml --results elsewhere", "status results/tiny"),
        ("watch --results=elsewhere mine/tiny.yaml", "watch results/tiny"),
        (
            "submit mine/tiny.yaml --cluster=p.yaml --budget 5",
            "submit results/tiny --cluster=results/tiny/p.yaml --budget 5",
        ),
        ("logs 8b30 --rank 0 -f", "logs 8b30 --rank 0 -f"),
    ],
)
def test_places_of_ours_become_places_of_the_site(words: str, sent: str) -> None:
    ours = {"mine/tiny.yaml": "results/tiny", "p.yaml": "results/tiny/p.yaml"}
    assert verbs.said(ours, words.split()) == sent.split()


def test_a_study_a_run_and_a_job_are_found_on_their_site(results: Path) -> None:
    run = load_study(results).runs[0].run_id
    for word in (str(results), "experiments/tiny.yaml", run, run[-8:]):
        assert verbs.place_of(word, None, jobs=False) == PLACE
    assert verbs.place_of("1234_5", None, jobs=True) == PLACE
    assert verbs.place_of("no-such-run", None, jobs=False) is None


def test_a_job_that_may_be_on_several_sites_needs_a_folder(results: Path) -> None:
    other = results.with_name("other")
    save_study(load_study(results).model_copy(update={"name": "other"}), other)
    elsewhere = PLACE.model_copy(update={"site": Site(ssh="other", folder="/x")})
    (other / RECORD).write_text(elsewhere.model_dump_json())
    with pytest.raises(HarnessError, match="job 7 may be on several sites; give --results"):
        verbs.place_of("7", None, jobs=True)
    assert verbs.place_of("7", other, jobs=True) == elsewhere


def test_a_study_without_a_site_stays_here(results: Path) -> None:
    (results / RECORD).unlink()
    assert remote(results) is None and verbs.place_of(str(results), None, jobs=False) is None


def test_a_record_that_is_none_is_named(results: Path) -> None:
    (results / RECORD).write_text("{}")
    with pytest.raises(HarnessError, match=r"site\.json: not a record of a site; delete it and submit again"):
        remote(results)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{ssh: cluster}", r"site\.folder is missing; give it"),
        ("{ssh: cluster, folder: hpz}", r"site\.folder: must be an absolute path"),
        ("{ssh: -oProxyCommand=x, folder: /x}", r"site\.ssh: "),
        ("{ssh: cluster, folder: /x, port: 22}", r"site\.port is not a key"),
    ],
)
def test_what_is_wrong_with_a_site_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"site: {text}")
    with pytest.raises(HarnessError, match=rf"mine\.yaml: {message}"):
        load_profile(tmp_path / "mine.yaml")
