"""The scheduler's words, whatever the release, and never more than one question in ten seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.launch.slurm import clients, scheduler
from harness.launch.slurm.clients import Clients, Job, NoAccounting, parse_sacct, parse_squeue
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.scheduler import Scheduler, Snapshot
from harness.launch.slurm.status import joined_state
from harness.record import Final, Status
from harness.system.errors import HarnessError
from harness.system.utc import local_to_utc
from tests.submitted import command

SQUEUE = """\
123|0|RUNNING|1:02|n[0-1]|hpz-abc|2026-11-26T07:04:03|lab|normal|gpu|None
123|1|PENDING|0:00||hpz-abc|N/A|lab|normal|gpu|JobArrayTaskLimit
123|2|SOME_NEW_STATE|0:00||(null)|N/A|(null)|(null)|gpu|Because|of reasons
77|N/A|RUNNING|5:00|n3|(null)|2026-11-26T07:04:03|lab|low|gpu|None
slurm_load_jobs warning: something new
"""
SACCT = """\
123_4|CANCELLED by 1000|00:01:00|n0|2026-11-26T07:04:03|more|fields
123_4.batch|CANCELLED|00:01:00|n0|2026-11-26T07:04:03
123_[5-9]|PENDING|00:00:00|None assigned|Unknown
123_3|TIMEOUT|1-00:10:00|n1|2026-11-26T07:04:03
123_2|FAILED|00:00:00|None assigned|Unknown
"""


@dataclass(frozen=True)
class CountingClients(Clients):
    """Answers without SLURM and counts the questions."""

    asked: list[str] = field(default_factory=list)
    jobs: tuple[Job, ...] = (Job("123", "0", "RUNNING"),)
    accounting: bool = False
    refusal: HarnessError = field(default_factory=lambda: NoAccounting("storage is disabled"))

    def squeue(self) -> list[Job]:
        self.asked.append("squeue")
        return list(self.jobs)

    def sacct(self, job_ids: Collection[str]) -> list[Job]:
        self.asked.append("sacct")
        if not self.accounting:
            raise self.refusal
        return [Job(job_id, "0", "TIMEOUT") for job_id in job_ids]


def test_squeue_lines_are_read_and_strange_ones_passed_over() -> None:
    jobs = list(parse_squeue(SQUEUE))
    assert [(job.array_id, job.task, job.state, job.reason) for job in jobs] == [
        ("123", "0", "RUNNING", ""),
        ("123", "1", "PENDING", "JobArrayTaskLimit"),
        ("123", "2", "SOME_NEW_STATE", "Because|of reasons"),
        ("77", "", "RUNNING", ""),  # no array's; counts where a site limits jobs
    ]
    assert all(job.active for job in jobs)
    assert (jobs[0].start, jobs[1].start, jobs[3].qos) == ("2026-11-26T07:04:03", "", "low")


def test_sacct_lines_are_read_without_steps() -> None:
    jobs = list(parse_sacct(SACCT))
    assert [(job.array_id, job.task, job.state) for job in jobs] == [
        ("123", "4", "CANCELLED"),
        ("123", "3", "TIMEOUT"),
        ("123", "2", "FAILED"),
    ]
    assert not any(job.active for job in jobs)
    assert [job.ended_utc for job in jobs] == [
        local_to_utc("2026-11-26T07:05:03"),
        local_to_utc("2026-11-27T07:14:03"),
        None,
    ]


def test_many_looks_ask_once(tmp_path: Path) -> None:
    clients = CountingClients()
    for _ in range(50):
        assert "123_0" in Scheduler(clients, tmp_path / "cache.json").snapshot().jobs
    assert clients.asked == ["squeue"]


def _look(cache: Path, log: Path) -> None:
    clients = CountingClients()
    for _ in range(10):
        Scheduler(clients, cache).snapshot()
    with log.open("a") as stream:
        stream.write("".join(f"{word}\n" for word in clients.asked))


def test_processes_share_one_question(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    cache, log = tmp_path / "cache.json", tmp_path / "log"
    processes = [context.Process(target=_look, args=(cache, log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert log.read_text().split() == ["squeue"]


def test_what_squeue_has_forgotten_is_asked_of_the_accounting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "QUERY_SECONDS", 0.0)
    clients = CountingClients(accounting=True)
    view = Scheduler(clients, tmp_path / "cache.json")
    assert view.snapshot({"9_0"}).forgotten == set()  # nobody has asked the accounting yet
    assert view.snapshot({"9_0"}).jobs["9_0"].state == "TIMEOUT"
    view.snapshot({"9_0"})
    assert clients.asked == ["squeue", "sacct", "squeue"]


def test_one_forgotten_task_of_a_living_array_is_asked_of_the_accounting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "QUERY_SECONDS", 0.0)
    clients = CountingClients(jobs=(Job("9", "1", "RUNNING"),), accounting=True)
    view = Scheduler(clients, tmp_path / "cache.json")
    view.snapshot({"9_0", "9_1", "9_2"})
    snapshot = view.snapshot({"9_0", "9_1", "9_2"})
    assert (snapshot.jobs["9_0"].state, snapshot.jobs["9_1"].state) == ("TIMEOUT", "RUNNING")
    assert snapshot.forgotten == {"9_2"}


def test_without_accounting_it_is_asked_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "QUERY_SECONDS", 0.0)
    clients = CountingClients()
    for _ in range(4):
        snapshot = Scheduler(clients, tmp_path / "cache.json").snapshot({"9_0"})
    assert clients.asked == ["squeue", "sacct", "squeue", "squeue"]
    assert snapshot.forgotten == {"9_0"}


def test_an_accounting_that_is_down_is_asked_again_and_nothing_is_taken_for_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "QUERY_SECONDS", 0.0)
    clients = CountingClients(refusal=HarnessError("Problem talking to the database"))
    for _ in range(4):
        snapshot = Scheduler(clients, tmp_path / "cache.json").snapshot({"9_0"})
    assert clients.asked == ["squeue", "sacct", "squeue", "sacct"]
    assert snapshot.forgotten == set()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Slurm accounting storage is disabled", NoAccounting),
        ("env: 'sacct': No such file or directory", NoAccounting),
        ("sacct: error: Problem talking to the database: Connection refused", HarnessError),
    ],
)
def test_no_accounting_is_told_from_one_that_is_down(
    words: str, kind: type[HarnessError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path, "sacct", f'echo "{words}" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(HarnessError, match=r"sacct|accounting") as caught:
        Clients().sacct({"9"})
    assert type(caught.value) is kind


def test_a_task_is_found_by_mark_or_by_id_and_a_living_job_first() -> None:
    first, repeat = Job("7", "0", "COMPLETED", mark="hpz-a"), Job("12", "0", "PENDING", mark="hpz-a")
    other = Job("13", "0", "RUNNING", mark="hpz-b")
    jobs = {f"{job.array_id}_{job.task}": job for job in (repeat, first, other)}
    assert Snapshot(jobs=jobs).job("hpz-a", "7", 0) == repeat
    assert Snapshot(jobs={"7_0": first}).job("hpz-changed-by-the-site", "7", 0) == first
    assert Snapshot(jobs=jobs).job("hpz-a", "7", 1) is None
    still = Job("7", "0", "RUNNING", mark="hpz-a")
    idle = Job("12", "0", "COMPLETED", mark="hpz-a")  # found the group taken and left
    assert Snapshot(jobs={"7_0": still, "12_0": idle}).job("hpz-a", "7", 0) == still


def test_a_silent_controller_is_a_problem_not_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "QUERY_SECONDS", 0.0)
    cache = tmp_path / "cache.json"
    Scheduler(CountingClients(), cache).snapshot()

    def refuse(self: Clients) -> list[Job]:
        raise HarnessError("Unable to contact slurm controller")

    monkeypatch.setattr(CountingClients, "squeue", refuse)
    snapshot = Scheduler(CountingClients(), cache).snapshot()
    assert snapshot.problem == "Unable to contact slurm controller"
    assert "123_0" in snapshot.jobs  # the last word stands


def test_a_scheduler_that_does_not_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path, "squeue", "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(clients, "CLIENT_SECONDS", 0.2)
    with pytest.raises(HarnessError, match=r"did not answer squeue within 0\.2 s; try again later"):
        Clients().squeue()


def test_missing_clients_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HarnessError, match="sbatch is not installed here"):
        Clients().sbatch(Path("x"))


def test_a_cluster_that_is_not_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPZ_CLUSTERS", str(tmp_path))
    with pytest.raises(HarnessError, match="hpz cluster up --name gone"):
        Clients.of(Profile(name="x", local_cluster="gone"))


@pytest.mark.parametrize("job_id", ["", "12;rm", "1_2_3", "name", "-u me"])
def test_only_job_ids_are_cancelled(job_id: str) -> None:
    with pytest.raises(HarnessError, match="no job id"):
        Clients().scancel(job_id)


NOW = "2999-01-01T00:00:00.000Z"  # whenever the test runs, it beat a moment ago
LONG_AGO = "2020-01-01T00:00:00.000Z"
FINAL = Final(steps=4, skipped_steps=0, shards_sha256="0" * 64)


@pytest.mark.parametrize(
    ("status", "job", "expected"),
    [
        (Status(state="done"), Job("1", "0", "RUNNING"), "done"),
        (Status(), Job("1", "0", "PENDING", reason="Priority"), "queued"),
        (Status(), Job("1", "0", "RUNNING"), "waiting"),
        (Status(state="running", heartbeat_utc=NOW), Job("1", "0", "RUNNING"), "running"),
        (Status(state="running", heartbeat_utc=LONG_AGO), Job("1", "0", "RUNNING"), "stalled"),
        (Status(state="running"), Job("1", "0", "TIMEOUT"), "timed-out"),
        (Status(state="running"), Job("1", "0", "NODE_FAIL"), "node-failed"),
        (Status(state="preempted"), Job("1", "0", "PREEMPTED"), "interrupted"),
        (Status(state="running"), Job("1", "0", "OUT_OF_MEMORY"), "out-of-memory"),
        (Status(state="preempted"), Job("1", "0", "PENDING"), "queued"),
        (Status(state="preempted"), Job("1", "0", "RUNNING"), "preempted"),  # in its grace time
        (Status(), Job("1", "0", "CANCELLED"), "interrupted"),
        (Status(state="running"), Job("1", "0", "COMPLETED"), "failed"),
        (Status(state="running"), None, "interrupted"),
        (Status(state="running", final=FINAL), None, "done"),
        (Status(state="pending", final=FINAL), Job("1", "0", "NODE_FAIL"), "done"),
        (Status(state="out-of-memory"), Job("1", "0", "FAILED"), "out-of-memory"),
    ],
)
def test_the_run_and_the_scheduler_make_one_state(status: Status, job: Job | None, expected: str) -> None:
    assert joined_state(status, job, 60.0, submitted=True, known=True)[0] == expected


def test_pending_reasons_and_the_step_to_go_on_from_are_shown() -> None:
    job = Job("1", "0", "PENDING", reason="BeginTime")
    assert (
        joined_state(Status(state="preempted", step=6), job, 60.0, True, True)[1]
        == "goes on from step 7; BeginTime"
    )


def test_a_job_nobody_has_asked_about_yet_is_queued() -> None:
    assert joined_state(Status(), None, 60.0, submitted=True, known=False)[0] == "queued"


def test_a_run_that_was_never_sent_says_so() -> None:
    assert joined_state(Status(), None, 60.0, submitted=False, known=False)[0] == "not submitted"
