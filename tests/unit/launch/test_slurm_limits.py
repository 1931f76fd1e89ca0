"""What a site allows, in the words of SLURM 22.05 with slurmdbd, and what is done where it is less than was asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.launch.slurm import scheduler
from harness.launch.slurm.again import Again
from harness.launch.slurm.clients import Clients, Job
from harness.launch.slurm.limits import Site, array_limit, ask, job_limit, site
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.status import study_rows
from harness.launch.slurm.submit import submit
from harness.launch.slurm.waiting import read_waiting
from harness.study import Study, load_study
from harness.system.places import REPOSITORY
from tests.conftest import StudyFile
from tests.submitted import Slurm, command, line

PROFILE = Profile(name="lab", account="lab")
PARTITIONS = """\
PartitionName=main AllowQos=ALL Default=YES QoS=N/A MaxNodes=UNLIMITED TRES=cpu=4,mem=8000M,node=2
PartitionName=part AllowQos=ALL Default=NO QoS=partqos MaxNodes=UNLIMITED TRES=cpu=4,mem=8000M,node=2
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """A site with accounting: account lab may have 3 jobs, QOS low 5, partition part 4."""
    made_up = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{made_up.folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(scheduler, "QUERY_SECONDS", 0.0)
    scontrol = f"""case "$*" in
*config) echo asked >> {made_up.folder}/times
cat << end
AccountingStorageEnforce = associations,limits,qos
ClusterName             = hpz
MaxArraySize            = 10001
MaxJobCount             = 10000
SchedulerParameters     = bf_interval=1,max_array_tasks=4
end
;;
*) cat << end
{PARTITIONS}end
esac"""
    command(made_up.folder, "scontrol", scontrol)
    user = "lab|two|||\\nlab|lab||3|\\nlab|lab|part|7|"
    command(
        made_up.folder,
        "sacctmgr",
        f'case "$*" in *user*) printf "{user}\\n";; *) printf "normal|\\nlow|5\\npartqos|4\\n"; esac',
    )
    return made_up


@pytest.fixture
def study(study_file: StudyFile) -> Study:
    matrix = {"model": "llama2-toy", "variant": "zero3", "shape": "2x2", "seed": [1, 2, 3, 4, 5]}
    return load_study(study_file(matrix=matrix))


@pytest.mark.parametrize(
    ("asked", "jobs", "whose"),
    [
        ({}, 3, "account 'lab'"),
        ({"account": "two"}, 10000, "the cluster"),
        ({"account": "two", "qos": "low"}, 5, "QOS 'low'"),
        ({"partition": "part"}, 4, "partition 'part'"),  # goes before the account's, as in SLURM itself
    ],
)
def test_the_limit_that_slurm_would_apply_is_found(
    slurm: Slurm, asked: dict[str, str], jobs: int, whose: str
) -> None:
    limit = job_limit(ask(Clients()), Profile(name="x", **asked))
    assert limit is not None and limit.jobs == jobs and limit.words.startswith(whose)


def test_only_living_jobs_under_the_same_limit_take_its_room(slurm: Slurm) -> None:
    limit = job_limit(ask(Clients()), PROFILE)
    jobs = [
        Job("1", "0", "RUNNING", account="lab"),
        Job("2", "", "PENDING", account="lab"),  # a job that is no array task counts, too
        Job("3", "0", "COMPLETED", account="lab"),
        Job("4", "0", "RUNNING", account="two"),
    ]
    assert limit is not None and limit.room(jobs) == 1


def test_arrays_are_as_long_as_the_site_allows_and_no_longer_than_the_profile_does(slurm: Slurm) -> None:
    asked = ask(Clients())
    assert asked.array == 4  # max_array_tasks is less than MaxArraySize
    assert [array_limit(asked, Profile(name="x", max_array_size=n)) for n in (None, 2, 9)] == [4, 2, 4]
    assert [array_limit(None, Profile(name="x", max_array_size=n)) for n in (None, 9000)] == [1001, 9000]


def test_a_site_is_asked_once_a_day(slurm: Slurm) -> None:
    assert [site(Clients()) for _ in range(3)] == [site(Clients())] * 3
    assert (slurm.folder / "times").read_text().split() == ["asked"]


def test_a_site_that_does_not_tell_sets_no_limit(slurm: Slurm) -> None:
    command(slurm.folder, "scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert site(Clients()) is None


def test_what_there_is_no_room_for_waits_and_is_sent_once_there_is(
    slurm: Slurm, study: Study, tmp_path: Path
) -> None:
    said: list[str] = []
    (sent,) = submit(study, tmp_path, PROFILE, said.append, code=REPOSITORY)
    assert len(sent.tasks) == 3
    assert said == [
        "2 pair groups wait, as account 'lab' allows you 3 jobs at a time (MaxSubmitJobs); send the rest with the same "
        "hpz submit once others have ended, or leave it to hpz watch --resubmit"
    ]
    slurm.queue.write_text("".join(line(f"41_{task}", "RUNNING", sent.mark) for task in range(3)))
    assert submit(study, tmp_path, PROFILE, code=REPOSITORY) == []
    rows, _ = study_rows(study, tmp_path)
    assert [row.state for row in rows] == ["waiting"] * 3 + ["not submitted"] * 2
    assert "MaxSubmitJobs" in rows[-1].why
    slurm.queue.write_text(line("41_0", "RUNNING", sent.mark))  # the others have ended
    again = Again(study, tmp_path, 10, lambda _, sentence: said.append(sentence))
    again.look(rows)
    assert said[1:] == ["there is room: 2 pair groups that waited are job 42"]
    assert read_waiting(tmp_path) is None and not again.send_waiting()


def test_what_was_just_sent_takes_room_before_squeue_tells_of_it(
    slurm: Slurm, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "QUERY_SECONDS", 10.0)
    assert sum(len(sent.tasks) for sent in submit(study, tmp_path, PROFILE, code=REPOSITORY)) == 3
    assert submit(study, tmp_path, PROFILE, code=REPOSITORY) == []


def test_a_remembered_site_of_another_form_is_asked_again(slurm: Slurm, tmp_path: Path) -> None:
    site(Clients())
    (file,) = tmp_path.glob("cache/hpz/limits-*.json")
    file.write_text(json.dumps({"utc": Site("2999-01-01T00:00:00.000Z").utc, "unknown": 1}))
    found = site(Clients())
    assert found is not None and found.array == 4
