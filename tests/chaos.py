"""Breaks what runs a study on a one-machine SLURM at random moments, and counts what was lost: it should be nothing.

`python -m tests.chaos`, or `make chaos`: until `--faults` faults have struck, studies of three seeds are submitted one
after another, and every few seconds a rank, srun, the driver, the process that tells wandb, slurmd or slurmctld is
killed, a task is requeued, stopped or cancelled, a node goes down, or the disk is full. What SLURM does not bring back
is submitted again, as its user would. The moments follow from `--seed`, which is printed; `--quick` trains nothing.
Exit code 0: no step was lost or made twice, no run was called done that was not, and wandb has every step once.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness.cluster import Cluster, Spec
from harness.cluster.cluster import temporary_cluster
from harness.launch.slurm.clients import Clients
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.scheduler import Scheduler
from harness.launch.slurm.status import Row, study_rows
from harness.launch.slurm.submit import submit
from harness.record import RunDirectory
from harness.study import Run, Study, load_study, save_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from tests.conftest import write_study
from tests.slurm.conftest import Submitter
from tests.wandb_store import steps_stored

SPEC = Spec(nodes=2, cpus=16, gpus=8, link="200mbit")
DISK_MEGABYTES = 1024  # of the results' own disk, where one can be mounted
LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 900.0  # without any progress, after which the script gives up and says so
ACTIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"}
STEPS = 40


@dataclass
class Site:
    """The cluster, the study that it is at, and what has struck it so far."""

    cluster: Cluster
    results: Path
    study: Study
    profile: Profile
    own_disk: bool
    chance: random.Random
    struck: Counter[str] = field(default_factory=Counter)
    submissions: int = 0
    false_done: list[str] = field(default_factory=list)
    high_water: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """What `hpz status` tells of the study now, having checked it against the runs' own steps."""
        prefix = tuple(self.cluster.prefix())
        clients = Clients(prefix, f"{self.cluster.name}-{self.cluster.keeper}-{self.cluster.keeper_started}")
        rows, _ = study_rows(self.study, self.results, Scheduler(clients))
        for row in rows:
            if row.state == "done" and made(self.results, row.run_id) != list(range(row.steps)):
                self.false_done.append(f"{row.run_id} at {time.strftime('%X')}")
        return rows

    def kill_one(self, pattern: str) -> bool:
        """Kill one of the processes of the cluster whose command line matches, if there is any."""
        found = self.cluster.run(["pgrep", "-f", pattern]).stdout.split()
        return bool(found) and not self.cluster.run(["kill", "-9", self.chance.choice(found)]).returncode

    def task(self) -> str | None:
        """A task of the queue."""
        words = ["squeue", "--noheader", "--array", "--states=running", "--format=%F_%K"]
        tasks = self.cluster.run(words).stdout.split()
        return self.chance.choice(tasks) if tasks else None

    def queue_is_empty(self) -> bool:
        """Also of tasks whose runs are done, and which tell wandb the rest."""
        asked = self.cluster.run(["squeue", "--noheader", "--states=all", "--format=%T"])
        return not asked.returncode and not set(asked.stdout.split()) & ACTIVE

    def of_a_task(self, *command: str) -> bool:
        task = self.task()
        return task is not None and not self.cluster.run([*command, task]).returncode

    def node(self) -> str:
        return self.chance.choice(self.cluster.spec.node_names)


def slurmd_dies(site: Site) -> bool:
    node = site.node()
    site.cluster.kill_node(node)
    time.sleep(site.chance.uniform(0, 5))
    site.cluster.start_node(node)
    return True


def slurmctld_dies(site: Site) -> bool:
    site.cluster.kill_controller()
    time.sleep(site.chance.uniform(0, 5))
    site.cluster.start_controller()
    return True


def node_goes_down(site: Site) -> bool:
    node = f"nodename={site.node()}"
    site.cluster.run(["scontrol", "update", node, "state=down", "reason=chaos"])
    time.sleep(site.chance.uniform(0, 5))
    site.cluster.run(["scontrol", "update", node, "state=resume"])
    return True


def disk_is_full(site: Site) -> bool:
    if not site.own_disk:
        return False
    ballast = site.results / "ballast"
    subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=1M"], capture_output=True, check=False)
    time.sleep(site.chance.uniform(1, 6))
    ballast.unlink()
    return True


FAULTS: dict[str, Callable[[Site], bool]] = {
    "a rank is killed": lambda site: site.kill_one(r"harness\.launch\.slurm\.rank .*/runs/"),
    "srun is killed": lambda site: site.kill_one("^srun "),
    "the driver is killed": lambda site: site.kill_one(r"-m harness\.launch\.slurm\.task"),
    "the process that tells wandb is killed": lambda site: site.kill_one(
        r"-m harness\.record\.(live|mirror)"
    ),
    "slurmd dies": slurmd_dies,
    "slurmctld dies": slurmctld_dies,
    "a node goes down": node_goes_down,
    "the disk is full": disk_is_full,
    "a task is requeued": lambda site: site.of_a_task("scontrol", "requeue"),
    "a task is cancelled": lambda site: site.of_a_task("scancel"),
    "a task hears that its limit is near": lambda site: site.of_a_task("scancel", "--batch", "--signal=USR1"),
}


def main(words: list[str] | None = None) -> int:
    options = parsed(words)
    print(f"{options.faults} faults, seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    with (
        tempfile.TemporaryDirectory(prefix="hpz-chaos-", ignore_cleanup_errors=True) as folder,
        disk(Path(folder) / "results") as own_disk,
        temporary_cluster(SPEC) as cluster,
    ):
        if not own_disk:
            print("no disk of its own can be mounted here: it is never full")
        sites = list(strike(cluster, Path(folder), own_disk, chance, options))
        code = report(sites, real=not options.quick)
        if code:
            kept = REPOSITORY / ".chaos" / time.strftime("%Y-%m-%d_%H-%M-%S")
            shutil.copytree(Path(folder) / "results", kept)
            print(f"the runs were kept in {kept}")
        return code


def parsed(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--quick", action="store_true", help="ranks that only pretend to train")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="mean time between two faults")
    return parser.parse_args(words)


@contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """A small disk of its own at `folder`, so that it can be full without harm to others; False where not allowed."""
    folder.mkdir()
    size = f"size={DISK_MEGABYTES}m"
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def strike(
    cluster: Cluster, folder: Path, own_disk: bool, chance: random.Random, options: argparse.Namespace
) -> Iterator[Site]:
    """Studies, one after another, each broken until its runs are done; as many as `faults` need."""
    left = options.faults
    every = options.every or (6.0 if options.quick else 25.0)
    while left > 0:
        site = begun(cluster, folder, own_disk, chance, options.quick)
        for name in until_done(site, left, every):
            left -= 1
            print(f"{time.strftime('%X')}  {options.faults - left:3d}  {name}", flush=True)
        yield site


def begun(cluster: Cluster, folder: Path, own_disk: bool, chance: random.Random, quick: bool) -> Site:
    """Submit a study of three new seeds."""
    send = Submitter(cluster, partial(write_study, folder), folder, {"step_seconds": 0.4}, real=not quick)
    profile = send.profile(wandb="offline", attempts=3, restarts=100, throttle=2)
    seeds = sorted(chance.sample(range(10**6), 3))
    matrix = {"model": "llama2-toy", "variant": ["fixed", "event"], "shape": "2x2-hpz2", "seed": seeds}
    training = {"steps": STEPS, "micro_batch": 1, "sequence_length": 16}
    study = load_study(write_study(folder, name=f"chaos-{seeds[0]}", matrix=matrix, training=training))
    results = folder / "results" / study.name
    save_study(study, results)
    site = Site(cluster, results, study, profile, own_disk, chance)
    send_what_is_missing(site)
    return site


def until_done(site: Site, faults: int, every: float) -> Iterator[str]:
    """Break and mend until all runs are done; yields the name of each fault that has struck."""
    next_fault = time.monotonic() + site.chance.expovariate(1 / every)
    progress, since = -1, time.monotonic()
    while True:
        time.sleep(LOOK_SECONDS)
        rows = site.rows()
        watch_water(site)
        if all(row.state == "done" for row in rows) and site.queue_is_empty():
            return
        if any(row.state == "held" for row in rows) or not any(row.may_go_on for row in rows):
            send_what_is_missing(site)
        if sum(site.high_water.values()) > progress:
            progress, since = sum(site.high_water.values()), time.monotonic()
        if time.monotonic() - since > PATIENCE_SECONDS:
            raise SystemExit(f"no step was made for {PATIENCE_SECONDS:g} s: {rows}")
        if faults and time.monotonic() > next_fault:
            name = site.chance.choice(list(FAULTS))
            if FAULTS[name](site):
                site.struck[name] += 1
                faults -= 1
                yield name
                next_fault = time.monotonic() + site.chance.expovariate(1 / every)


def send_what_is_missing(site: Site) -> None:
    """As `hpz submit` would; SLURM or the disk may not answer just now, then at the next look."""
    try:
        site.submissions += bool(submit(site.study, site.results, site.profile))
    except (HarnessError, OSError, subprocess.TimeoutExpired) as error:
        print(f"not submitted yet: {error}", flush=True)


def made(results: Path, run_id: str) -> list[int]:
    """The steps of a run's record, in its order."""
    file = RunDirectory(results / "runs" / run_id).steps_file
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def watch_water(site: Site) -> None:
    """A step that a checkpoint had reached is never to be made again."""
    for run in site.study.runs:
        latest = RunDirectory(site.results / "runs" / run.run_id).checkpoints / "latest"
        step = int(latest.read_text().removeprefix("step") or 0) if latest.exists() else 0
        before = site.high_water.get(run.run_id, 0)
        if step < before and latest.exists():
            site.lost.append(f"{run.run_id}: back from step {before} to {step}")
        site.high_water[run.run_id] = max(step, before)


def report(sites: list[Site], real: bool) -> int:
    """Print what struck and what it cost; 1 where anything was lost."""
    struck = sum((site.struck for site in sites), Counter[str]())
    for name, count in struck.most_common():
        print(f"{count:4d}  {name}")
    runs = [(site, run) for site in sites for run in site.study.runs]
    counts = {
        "lost steps": [text for site in sites for text in site.lost]
        + [run.run_id for site, run in runs if made(site.results, run.run_id) != list(range(STEPS))],
        "false done": [text for site in sites for text in site.false_done],
        "runs with missing or double steps in wandb": [
            run.run_id for site, run in runs if mirrored(site, run) != list(range(STEPS))
        ],
    }
    if real:
        counts["runs that differ from their baseline"] = [text for site in sites for text in differing(site)]
    sent = sum(site.submissions for site in sites)
    print(f"{struck.total()} faults in {len(sites)} studies of {len(runs)} runs, {sent} submissions")
    for name, found in counts.items():
        print(f"{name}: {len(found)}{': ' if found else ''}{'; '.join(found)}")
    return int(any(counts.values()))


def mirrored(site: Site, run: Run) -> list[int]:
    """The steps of a run in wandb's stores, which are told first what they have not heard, as `hpz wandb` does."""
    from harness.record.mirror import mirror_run

    directory = RunDirectory(site.results / "runs" / run.run_id)
    mirror_run(directory.path, "offline")
    return steps_stored(directory.path)


def differing(site: Site) -> list[str]:
    """Runs whose losses or shards are not those of the baseline with the same seed."""

    def told(run: Run) -> tuple[list[str], str]:
        directory = RunDirectory(site.results / "runs" / run.run_id)
        final = directory.status().final
        losses = [str(json.loads(line)["loss"]) for line in directory.steps_file.read_text().splitlines()]
        return losses, final.shards_sha256 if final else "none"

    baselines = {run.seed: told(run) for run in site.study.runs if run.variant == "zero3"}
    return [run.run_id for run in site.study.runs if told(run) != baselines[run.seed]]


if __name__ == "__main__":
    sys.exit(main())
