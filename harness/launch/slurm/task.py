"""What one array task does in its allocation: it gives every run of its pair group turns, through srun, until all end.

`python -m harness.launch.slurm.task FOLDER INDEX -- SRUN… PYTHON`, exec'd by the batch script. The variants take turns
in blocks of steps, the order turning round from block to block (A B B A), so that a slow drift of the nodes cancels.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.cluster.cluster import usual_link
from harness.cluster.network import shape_words
from harness.launch.slurm.arrays import Task, read_profile, read_tasks
from harness.launch.slurm.checks import Check
from harness.launch.slurm.ended import Ended, close_finished, judge, steps_reached
from harness.launch.slurm.examine import Network, examine
from harness.launch.slurm.mirroring import mirror, mirrored_live
from harness.launch.slurm.notify import Notifier, run_event, study_ended_here
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.srun import Allocation, Stop, await_preemption, on_every_node, run_step
from harness.launch.slurm.turns import block_end, turns
from harness.record import OPEN, RunDirectory
from harness.record.environment import recorded_versions
from harness.record.hours import close_lost_turn
from harness.record.provenance import code_snapshot, package_versions
from harness.study import Run
from harness.system.child import python_path
from harness.system.errors import HarnessError
from harness.system.interface import VARIABLE as WIRE_INTERFACE
from harness.system.secrets import veil_output
from harness.system.utc import utc_now
from harness.variants import Variant, overlay_path

REQUEUE_SECONDS = 30.0  # within which SLURM ends a script whose job it requeues


@dataclass
class Driver:
    """The task at work: `srun` are the words before `-m MODULE`, python included."""

    folder: Path
    task: Task
    profile: Profile
    srun: list[str]
    allocation: Allocation
    stop: Stop = field(default_factory=Stop)
    network: Network | None = None
    check: Check | None = None  # of the nodes
    starts: dict[str, int] = field(default_factory=dict)
    notifier: Notifier = field(default_factory=lambda: Notifier(None))

    @property
    def results(self) -> Path:
        return self.folder.parent.parent

    def run(self) -> int:
        """All turns of all runs; the exit code of the task."""
        mode = self.profile.wandb or os.environ.get("WANDB_MODE", "offline")
        runs = [RunDirectory(self.results / "runs" / run_id) for run_id in self.task.runs]
        for directory in runs:
            close_finished(directory)
        todo = [directory for directory in runs if directory.status().state != "done"]
        if todo:
            with self.links_shaped(todo), mirrored_live(runs, mode, self.stop):
                self.take_turns(todo, self.profile.blocks if len(runs) > 1 else 1)
        if self.stop.asked:
            return self.leave(todo)
        if event := study_ended_here(self.results, runs[0].run().study):
            self.notifier.tell(event)
        mirror(runs, mode, self.stop)
        return int(any(directory.status().state != "done" for directory in runs))

    def take_turns(self, todo: list[RunDirectory], blocks: int) -> None:
        if self.go_elsewhere(todo):
            self.await_end()
            return
        for directory in todo:
            self.begin(directory)
        for block, order in turns(todo, blocks):
            for directory in order:
                if not self.stop.asked and directory.status().state in OPEN:
                    self.turn(directory, block)

    def go_elsewhere(self, todo: list[RunDirectory]) -> bool:
        """Look at the nodes and measure the network; whether this group was sent to other nodes, and is over here."""
        started = utc_now()
        examined = examine(self.folder, self.task, self.profile, self.srun, self.allocation, self.stop)
        self.check = examined.check
        # Who sent how fast to whom stands in the submission's folder, once.
        self.network = examined.network and {k: v for k, v in examined.network.items() if k != "transfers"}
        for directory in todo if examined.elsewhere else ():
            why = "; ".join(self.found())
            self.write_turn(directory, 0, steps_reached(directory), started, "left", why)
        return examined.elsewhere

    def found(self) -> list[str]:
        """What is wrong with the nodes."""
        return [finding.sentence for finding in self.check.findings] if self.check else []

    def begin(self, directory: RunDirectory) -> None:
        close_lost_turn(directory, steps_reached(directory))
        status = directory.status()
        directory.update_status(
            state="pending",
            attempts=status.attempts + 1,
            reason=None,
            ended_by=None,
            exit={},
            ended_utc=None,
            heartbeat_utc=utc_now(),  # an answer of SLURM's from before says nothing of this attempt
            network=self.network,
        )

    def turn(self, directory: RunDirectory, block: int) -> None:
        """One block of one run, started again where its ranks were killed."""
        run = directory.run()
        until = block_end(run.training.steps, block, self.blocks_of(run))
        while not self.stop.asked and steps_reached(directory) < until:
            started, before = utc_now(), steps_reached(directory)
            directory.update_status(state="running", heartbeat_utc=started, started_utc=started)
            ended = self.start_ranks(directory, run, until)
            self.record_turn(directory, block, before, started, ended)
            if not self.settle(directory, run, ended):
                return

    def blocks_of(self, run: Run) -> int:
        return min(self.profile.blocks, run.training.steps) if len(self.task.runs) > 1 else 1

    def settle(self, directory: RunDirectory, run: Run, ended: Ended) -> bool:
        """Write down how a turn ended; returns whether to try again."""
        key = run.run_id
        if ended.outcome == "stopped" and not self.stop.asked:
            directory.update_status(state="preempted", reason=ended.reason, heartbeat_utc=utc_now())
            await_preemption(self.allocation, self.stop)
        if (
            ended.outcome in ("killed", "stopped")
            and not self.stop.asked
            and self.starts[key] < self.profile.attempts
        ):
            directory.update_status(reason=ended.reason, attempts=directory.status().attempts + 1)
            return True
        final = directory.status().final
        if ended.outcome == "reached" and final is not None:
            state, reason = "done", None
        elif self.stop.asked:
            state, reason = "preempted", "stopped as SLURM asked; goes on from its checkpoint"
        elif ended.outcome == "reached":
            state, reason = "pending", None  # waits for its next turn
        else:
            state, reason = ("out-of-memory" if ended.outcome == "out-of-memory" else "failed"), ended.reason
        exits = {rank: e.model_dump() for rank, e in ended.exits.items()}
        over: dict[str, Any] = {} if state == "pending" else {"ended_utc": utc_now()}
        if reached := steps_reached(directory):
            over["step"] = reached - 1
        directory.update_status(state=state, reason=reason, exit=exits, heartbeat_utc=utc_now(), **over)
        if state not in OPEN:
            self.notifier.tell(run_event(self.results, run.study, key, state, reason))
        return False

    def start_ranks(self, directory: RunDirectory, run: Run, until: int) -> Ended:
        self.starts[run.run_id] = self.starts.get(run.run_id, 0) + 1
        # In a container the ranks make it, of the DeepSpeed that is there.
        overlay = [] if self.profile.container else [overlay_path(Variant.parse(run.variant), run.release)]
        environment = {
            **os.environ,
            "PYTHONPATH": python_path(*overlay),
            **({"HPZ_GROUPS_ACROSS_NODES": "1"} if self.profile.groups_across_nodes else {}),
            **({WIRE_INTERFACE: i} if (i := self.profile.network_interface) else {}),
        }
        directory.set_logs_aside()
        begun = steps_reached(directory)
        command = [*self.srun, "-m", "harness.launch.slurm.rank", str(directory.path), str(until)]
        code, errors = run_step(command, environment, self.allocation, self.stop)
        return judge(directory, run, (begun, until), code, errors, self.stop.asked)

    def record_turn(
        self, directory: RunDirectory, block: int, before: int, started: str, ended: Ended
    ) -> None:
        """Write down which steps ran where, in which turn, and how that ended."""
        until = self.write_turn(directory, block, before, started, ended.outcome, ended.reason)
        if until > before:
            earlier = directory.status().allocations if before else ()
            each_once = dict.fromkeys((*earlier, self.allocation.name))
            directory.update_status(allocations=tuple(each_once))

    def write_turn(
        self,
        directory: RunDirectory,
        block: int,
        before: int,
        started: str,
        outcome: str,
        reason: str | None,
    ) -> int:
        """One line in allocations.jsonl; returns the step that was reached."""
        line: dict[str, Any] = {
            "schema": 1,
            "job": self.allocation.job,
            "restart": self.allocation.restart,
            "nodes": self.allocation.nodes,
            "group": self.task.group,
            "block": block,
            "paired_with": [run for run in self.task.runs if run != directory.path.name],
            "groups_across_nodes": self.profile.groups_across_nodes,
            "from_step": before,
            "until_step": steps_reached(directory),
            "started_utc": started,
            "ended_utc": utc_now(),
            "outcome": outcome,
            "reason": reason,
            "nodes_found": self.found(),  # what is wrong with the nodes
            "nodes_excluded": list(self.check.excluded) if self.check else [],
            "versions": recorded_versions(directory) if self.profile.container else package_versions(),
            "code": code_snapshot(),
            **({"container": container.record()} if (container := self.profile.container) else {}),
        }
        with (directory.path / "allocations.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        return int(line["until_step"])

    @contextmanager
    def links_shaped(self, todo: list[RunDirectory]) -> Iterator[None]:
        """Links at the rate that the runs ask for; a local cluster's own before and after, whoever was killed."""
        usual = usual_link() if self.profile.local_cluster else None
        ours = self.profile.shapes_links and bool(self.task.link or self.profile.local_cluster)
        if ours and (problem := self.shape_links(self.task.link or usual)) and not self.stop.asked:
            reason = f"matrix.link: {self.task.link or usual} cannot be set on the nodes: {problem}"
            for directory in todo:
                directory.update_status(state="failed", reason=reason, ended_utc=utc_now())
            raise HarnessError(reason)
        try:
            yield
        finally:
            if self.task.link and (problem := self.shape_links(usual)):
                print(f"hpz: links stay at {self.task.link}: {problem}", file=sys.stderr)

    def shape_links(self, link: str | None) -> str | None:
        """Limit what each node sends to `link`, or lift the limit; returns why that could not be done, or None."""
        words = ["tc", "qdisc", *shape_words(self.profile.network_interface or "", link)]
        return on_every_node(self.task.nodes, words)

    def leave(self, todo: list[RunDirectory]) -> int:
        """After a stop: ask for another allocation where the limit was the cause; SLURM itself requeues otherwise."""
        left = [directory for directory in todo if directory.status().state in OPEN]
        if not left or not self.stop.before_limit or self.stop.ending:
            return int(bool(left))
        if self.allocation.restart >= self.profile.restarts:
            for directory in left:
                reason = f"at the time limit for the {self.allocation.restart + 1}th time (restarts of the profile)"
                directory.update_status(state="timed-out", reason=reason, ended_utc=utc_now())
                name = directory.path.name
                self.notifier.tell(run_event(self.results, directory.run().study, name, "timed-out", reason))
            return 1
        done = subprocess.run(
            ["scontrol", "requeue", self.allocation.job], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"hpz: scontrol requeue: {done.stderr.strip()}", file=sys.stderr)
        if done.returncode == 0:
            self.await_end()
        return 1

    def await_end(self) -> None:
        """Wait for SLURM to end this script, whose task it has requeued."""
        deadline = time.monotonic() + REQUEUE_SECONDS
        while not self.stop.ending and time.monotonic() < deadline:
            time.sleep(0.1)


@contextmanager
def sole_owner(folder: Path, group: str) -> Iterator[bool]:
    """Whether no other task runs this group; the lock ends with the process, however it ends."""
    locks = folder.parent / "lock"
    locks.mkdir(exist_ok=True)
    with (locks / group).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:
            yield True  # a file system without locks
        else:
            yield True


def main() -> int:
    veil_output()
    folder, index = Path(sys.argv[1]), int(sys.argv[2])
    srun = sys.argv[sys.argv.index("--") + 1 :]
    task = read_tasks(folder)[index]
    profile = read_profile(folder)
    driver = Driver(folder, task, profile, srun, Allocation.from_slurm(), notifier=Notifier(profile.notify))
    driver.stop.listen()
    with sole_owner(folder, task.group) as sole:
        if not sole:
            print(f"hpz: another job runs group {task.group}; nothing to do here")
            return 0
        return driver.run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HarnessError as error:
        print(f"hpz: {error}", file=sys.stderr)
        sys.exit(2)
