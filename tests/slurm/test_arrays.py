"""Studies as job arrays on a real SLURM: throttle, order, placement, refusals, and names that try to break out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from analysis.archive.unpack import unpack
from harness.cluster import Cluster
from harness.launch.slurm.cancel import cancel
from harness.launch.slurm.clients import Clients
from harness.launch.slurm.limits import ask
from harness.launch.slurm.scheduler import Scheduler
from harness.launch.slurm.status import study_rows
from harness.launch.slurm.submit import submit
from harness.record import RunDirectory
from harness.study import load_study
from harness.system.errors import HarnessError
from harness.system.utc import utc_now
from tests.planted import PLANTED, leaks
from tests.slurm.conftest import Submitter, logs, wait_for, wait_for_states
from tests.unit.cli.test_cli import hpz
from tests.wandb_store import steps_stored

ONE_NODE = {"model": "llama2-toy", "variant": "fixed", "shape": "1x2-hpz2", "seed": [1, 2, 3]}


def test_a_throttled_array_runs_every_pair_group_once(submitter: Submitter, clients: Clients) -> None:
    submitter.behaviour = {"step_seconds": 0.05}
    study, results, (sent,) = submitter(submitter.profile(throttle=1), matrix=ONE_NODE)
    running: list[int] = []

    def all_done() -> bool:
        jobs = clients.squeue()
        running.append(sum(job.state == "RUNNING" and job.array_id == sent.job_id for job in jobs))
        return all(RunDirectory(results / "runs" / run.run_id).status().state == "done" for run in study.runs)

    wait_for(all_done, results)
    assert len(sent.tasks) == 3 and len(study.runs) == 6
    assert max(running) == 1


def test_variants_take_turns_in_one_allocation(submitter: Submitter) -> None:
    study, results, (sent,) = submitter(submitter.profile(blocks=2))
    wait_for_states(study, results, "done")
    lines = [
        (json.loads(line)["started_utc"], json.loads(line), run.variant)
        for run in study.runs
        for line in (results / "runs" / run.run_id / "allocations.jsonl").read_text().splitlines()
    ]
    order = [
        (variant, line["from_step"], line["until_step"])
        for _, line, variant in sorted(lines, key=lambda x: x[0])
    ]
    assert order == [("zero3", 0, 2), ("fixed", 0, 2), ("fixed", 2, 4), ("zero3", 2, 4)]
    assert {line["job"] for _, line, _ in lines} == {f"{sent.job_id}_0"}


def test_ranks_lie_in_blocks_over_both_nodes(submitter: Submitter) -> None:
    study, results, _ = submitter()
    wait_for_states(study, results, "done")
    log = results / "runs" / study.runs[0].run_id / "log"
    said = [(log / f"rank-{rank}.txt").read_text().split() for rank in range(4)]
    assert [words[6] for words in said] == ["0", "0", "1", "1"]
    assert {words[-1] for words in said} == {"n0"}


def test_a_group_across_nodes_is_refused_with_the_cause(submitter: Submitter) -> None:
    study, results, _ = submitter(submitter.profile(srun_options=["--distribution=cyclic"]))
    wait_for_states(study, results, "done", "failed")
    by_variant = {run.variant: RunDirectory(results / "runs" / run.run_id).status() for run in study.runs}
    assert by_variant["zero3"].state == "done"
    assert "--distribution=block" in (by_variant["fixed"].reason or "")


def test_a_group_across_nodes_may_be_asked_for(submitter: Submitter) -> None:
    profile = submitter.profile(srun_options=["--distribution=cyclic"], groups_across_nodes=True)
    study, results, _ = submitter(profile)
    wait_for_states(study, results, "done")
    fixed = next(run for run in study.runs if run.variant == "fixed")
    line = json.loads((results / "runs" / fixed.run_id / "allocations.jsonl").read_text().splitlines()[0])
    assert line["groups_across_nodes"] is True


def test_submitting_again_sends_only_what_is_missing(submitter: Submitter, clients: Clients) -> None:
    profile = submitter.profile()
    study, results, first = submitter(profile, matrix={**ONE_NODE, "seed": [1, 2]})
    assert submit(study, results, profile) == []  # all in the queue
    wait_for_states(study, results, "done")
    wait_for(lambda: not any(job.active for job in clients.squeue()))
    assert submit(study, results, profile) == []  # all done
    directory = RunDirectory(results / "runs" / study.runs[0].run_id)
    directory.update_status(state="failed", final=None)
    (again,) = submit(study, results, profile)
    assert [task.group for task in again.tasks] == [first[0].tasks[0].group]


def test_the_saved_script_repeats_the_study(submitter: Submitter, cluster: Cluster, clients: Clients) -> None:
    submitter.behaviour = {"step_seconds": 1}  # the repeat runs long enough to be seen however slow squeue is
    study, results, (sent,) = submitter()
    wait_for_states(study, results, "done")
    for run in study.runs:
        RunDirectory(results / "runs" / run.run_id).update_status(state="pending", final=None)
        (results / "runs" / run.run_id / "checkpoint" / "latest").unlink()
    done = cluster.run(["sbatch", "--parsable", str(sent.folder / "submit.sbatch")])
    assert done.returncode == 0, done.stderr
    repeat = f"{done.stdout.strip()}_0"
    wait_for(
        lambda: (
            ("running", repeat)
            in [(row.state, row.job) for row in study_rows(study, results, Scheduler(clients))[0]]
        ),
        results,
    )
    wait_for_states(study, results, "done")


def test_slurms_own_words_come_through_when_it_refuses(submitter: Submitter) -> None:
    profile = submitter.profile(partition="members", account="nobody")
    with pytest.raises(HarnessError, match=r"SLURM refused .*account"):
        submitter(profile)


def test_too_many_gpus_are_refused(submitter: Submitter) -> None:
    profile = submitter.profile(gpus_per_node=16)
    with pytest.raises(HarnessError, match=r"SLURM refused .*(node configuration|gres|GPU)"):
        submitter(
            profile, device="cuda", matrix={"model": "llama2-toy", "variant": "fixed", "shape": "1x16-hpz2"}
        )


def test_spaces_quotes_and_a_name_that_would_run_commands_do_no_harm(
    submitter: Submitter, clients: Clients
) -> None:
    submitter.root = submitter.root / """it's a "folder" (50% off) $(touch pwned-path) # &"""
    submitter.root.mkdir()
    name = """x"; touch pwned-name; $(touch pwned-too) `touch pwned` #"""
    study, results, (sent,) = submitter(
        submitter.profile(job_name=name, environment={"ODD": "a b'c\"$(touch pwned)"})
    )
    wait_for_states(study, results, "done")
    names = submitter.cluster.run(
        ["squeue", "--states=all", "--noheader", f"--jobs={sent.job_id}", "--format=%j"]
    )
    assert names.stdout.splitlines()[0].strip() == name
    assert logs(results)  # the job's output is where the script says
    assert not [path for path in (Path.cwd(), *results.parents, Path("/")) if list(path.glob("pwned*"))]


def test_cancelled_runs_are_interrupted_and_can_be_sent_again(submitter: Submitter, clients: Clients) -> None:
    submitter.behaviour = {"step_seconds": 5}
    study, results, (sent,) = submitter()
    wait_for(
        lambda: any(row.state == "running" for row in study_rows(study, results, Scheduler(clients))[0]),
        results,
    )
    assert cancel(results) == [sent.job_id]
    wait_for(
        lambda: {row.state for row in study_rows(study, results, Scheduler(clients))[0]} <= {"interrupted"},
    )
    submitter.behaviour = {}
    _, _, again = submitter()
    assert len(again) == 1
    wait_for_states(study, results, "done")


def rates(cluster: Cluster) -> list[str]:
    """What limits each node's data link, in tc's words."""
    return [cluster.run(["tc", "qdisc", "show", "dev", "eth0"], node=node).stdout for node in ("n0", "n1")]


def test_links_have_the_clusters_rate_again_after_a_study_that_set_it(
    submitter: Submitter, cluster: Cluster
) -> None:
    submitter.behaviour = {"step_seconds": 0.5}
    profile = submitter.profile(shapes_links=True, network_interface="eth0")
    matrix = {"model": "llama2-toy", "variant": "zero3", "shape": "2x2", "link": "50mbit"}
    study, results, _ = submitter(profile, matrix=matrix)
    wait_for(lambda: all("rate 50Mbit" in rate for rate in rates(cluster)), results)
    wait_for_states(study, results, "done")
    wait_for(lambda: all("rate 200Mbit" in rate for rate in rates(cluster)), results)


def test_a_throttle_holds_over_several_arrays(submitter: Submitter, clients: Clients) -> None:
    submitter.behaviour = {"step_seconds": 0.2}
    profile = submitter.profile(throttle=1, max_array_size=1)
    study, results, sent = submitter(profile, matrix={**ONE_NODE, "seed": [1, 2]})
    running: list[int] = []

    def all_done() -> bool:
        running.append(sum(job.state == "RUNNING" for job in clients.squeue()))
        return all(RunDirectory(results / "runs" / run.run_id).status().state == "done" for run in study.runs)

    wait_for(all_done, results)
    assert len(sent) == 2 and max(running) == 1


def test_a_study_waits_for_other_jobs_and_slurm_knows_whom_to_write_to(
    submitter: Submitter, cluster: Cluster, clients: Clients
) -> None:
    held = ["sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"]
    before = cluster.run(held, check=True).stdout.strip()
    asked = {"after": [f"afterany:{before}"], "mail": "me@site.example", "options": ["--switches=1@00:01:00"]}
    profile = submitter.profile(throttle=1, max_array_size=1, **asked)
    study, results, (first, second) = submitter(profile, matrix={**ONE_NODE, "seed": [1, 2]})
    told = cluster.run(["scontrol", "show", "job", str(first.job_id)]).stdout
    assert "MailUser=me@site.example MailType=END,FAIL" in told and "Switches=1@00:01:00" in told
    told = cluster.run(["scontrol", "show", "job", str(second.job_id)]).stdout
    assert f"afterany:{before}(" in told and f"afterany:{first.job_id}_*(" in told
    wait_for(lambda: {job.reason for job in clients.squeue() if job.state == "PENDING"} >= {"Dependency"})
    cluster.run(["scontrol", "release", before], check=True)
    wait_for_states(study, results, "done")


def test_a_pending_run_is_told_with_the_start_that_slurm_expects(submitter: Submitter) -> None:
    submitter.behaviour = {"step_seconds": 5}
    study, results, _ = submitter(submitter.profile(exclusive=True), matrix={**ONE_NODE, "seed": [1, 2, 3]})
    wait_for(lambda: any(row.starts_utc for row in study_rows(study, results)[0]), results)
    row = next(row for row in study_rows(study, results)[0] if row.starts_utc)
    assert "expected to start 2" in row.why and row.starts_utc is not None and row.starts_utc > utc_now()


def test_tasks_tell_a_command_of_each_run_and_of_the_study(submitter: Submitter, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    tell = f"cat >> {shlex.quote(str(heard))}; exit 1"  # what becomes of the command is nobody's harm
    study, results, _ = submitter(submitter.profile(notify=tell), matrix={**ONE_NODE, "seed": [1, 2]})
    wait_for_states(study, results, "done")
    wait_for(lambda: heard.exists() and "study-ended" in heard.read_text(), results)
    events = [json.loads(line) for line in heard.read_text().splitlines()]
    assert sorted(event["run_id"] for event in events if event["event"] == "run-done") == sorted(
        run.run_id for run in study.runs
    )
    assert [event["text"] for event in events if event["event"] == "study-ended"] == [
        "tiny has ended: 4 done"
    ]


def test_a_site_is_asked_for_its_limits(clients: Clients) -> None:
    asked = ask(clients)
    assert (asked.array, asked.jobs, asked.qos_jobs) == (10001, 10000, {})


def test_the_readmes_commands_lead_from_a_study_to_its_report_and_no_secret_into_a_file(
    submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submit → watch → report, as a user types them, in a shell that holds tokens which the ranks print."""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    submitter.behaviour = {"say": list(PLANTED)}
    file, results = submitter.study_file(), submitter.root / "results"
    profile = submitter.root / "profile.yaml"
    profile.write_text(json.dumps(submitter.profile(wandb="offline").model_dump(exclude_defaults=True)))
    sent = hpz("submit", str(file), "--cluster", str(profile), "--results", str(results))
    assert sent.returncode == 0 and "Look on with: hpz watch" in sent.stdout, sent.stderr
    watched = hpz("watch", str(results))
    assert watched.returncode == 0 and watched.stdout.count("done  4/4") == 2, watched.stderr
    assert hpz("report", str(results)).returncode == 0
    assert (results / "report.html").exists()
    directory = RunDirectory(results / "runs" / load_study(file).runs[0].run_id)
    wait_for(lambda: (directory.path / "wandb.json").exists(), results)  # the job's last act
    assert steps_stored(directory.path) == [0, 1, 2, 3]
    assert (directory.logs / "rank-0.txt").read_text().count("[hidden]") == len(PLANTED)
    assert hpz("archive", str(results)).returncode == 0
    assert leaks(results) == []
    opened = submitter.root / "opened"
    unpack(results.with_suffix(".zip"), opened)
    (code,) = (opened / "code").iterdir()
    assert (code / "snapshot.json").exists() and (opened / "slurm" / "0001" / "submit.sbatch").exists()
    assert leaks(opened) == []
    pushed = hpz("wandb", str(results))
    assert pushed.returncode == 0 and "0 new steps of 2 runs" in pushed.stdout, pushed.stderr
