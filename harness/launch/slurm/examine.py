"""Looks at the nodes of an allocation before a group's ranks start, and sends the group elsewhere where one is bad.

First every node says what it has (seconds); then the network baseline, where the profile wants one, is held against
what the profile expects. A node that is silent is asked twice and a slow link measured twice before anybody is blamed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.launch.slurm.arrays import Task, read_cluster
from harness.launch.slurm.checks import (
    FILE,
    Check,
    excluded_nodes,
    link_findings,
    one_at_a_time,
    read_checks,
    to_leave_out,
)
from harness.launch.slurm.elsewhere import host_names, place_without, send_elsewhere
from harness.launch.slurm.health import Asked, Finding, Health, judge, judge_inside, judge_together
from harness.launch.slurm.node import Facts
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.srun import Allocation, Stop, run_step
from harness.study.axes import bits_per_second
from harness.system.child import python_path
from harness.system.errors import HarnessError

NODES_SECONDS = 90.0
BASELINE_SECONDS = 300.0

Network = dict[str, Any]  # what harness.launch.slurm.bandwidth writes


@dataclass(frozen=True)
class Examined:
    """What came of it; `check` is None where SLURM asked for a stop meanwhile."""

    check: Check | None
    network: Network | None
    elsewhere: bool = False  # this task was sent to other nodes, and ends here


def examine(
    folder: Path, task: Task, profile: Profile, srun: list[str], allocation: Allocation, stop: Stop
) -> Examined:
    """Ask, measure, decide, write down, and send elsewhere where that is called for. Whatever fails here ends no run.

    `folder` is the submission's, `srun` the words that start the ranks, python included.
    """
    own = Examiner(folder, task, profile, srun, allocation, stop)
    if profile.health is None:
        return Examined(None, own.measure())
    try:
        return own.examine(profile.health)
    except (HarnessError, OSError, ValueError) as error:
        print(f"hpz: the nodes were not looked at: {error}", file=sys.stderr)
        return Examined(None, own.measure())


@dataclass(frozen=True)
class Examiner:
    """Examines the nodes of one task's allocation; the fields are as in `examine`."""

    folder: Path
    task: Task
    profile: Profile
    srun: list[str]
    allocation: Allocation
    stop: Stop

    def examine(self, health: Health) -> Examined:
        nodes = host_names(self.allocation.nodes)
        findings = judge(self.ask(nodes), nodes, health, self.gpus_needed)
        network = None
        if not (health.exclude_at_most and any(finding.node for finding in findings)):
            network = self.look_at_links(health)
            findings += judge_inside(inside_of(network), health)
        if self.stop.asked:
            return Examined(None, network)
        with one_at_a_time(self.folder.parent):
            check, here = self.decide(health, nodes, findings, network)
            self.write(check)
        for finding in check.findings:
            print(f"hpz: {finding.sentence}", file=sys.stderr)
        if here and self.send(check, here):
            return Examined(check, network, elsewhere=True)
        return Examined(check, network or self.measure())

    def start(self, words: list[str], seconds: float) -> tuple[int, list[str]]:
        """Run a module of ours as the ranks are run; a process that fails takes none of the others with it."""
        srun = ["--kill-on-bad-exit=0" if word == "--kill-on-bad-exit=1" else word for word in self.srun]
        environment = {**os.environ, "PYTHONPATH": python_path()}
        return run_step([*srun, "-m", *words], environment, self.allocation, self.stop, seconds)

    def measure(self, again: bool = False) -> Network | None:
        """The network baseline of this set of nodes, measured once a submission; None where it is not or failed."""
        if not self.profile.network_baseline:
            return None
        shape = f"{self.task.nodes}x{self.task.ranks_per_node}"
        link = f"-{self.task.link}" if self.task.link else ""
        file = self.folder / "network" / f"{shape}{link}-{self.allocation.nodes}.json"
        if again or not file.exists():
            backend = "nccl" if self.task.device == "cuda" else "gloo"
            words = ["harness.launch.slurm.bandwidth", str(file), backend]
            code, errors = self.start(words, BASELINE_SECONDS)
            if code:
                said = " ".join(errors[-3:])
                print(f"hpz: no network baseline (exit code {code}): {said}", file=sys.stderr)
        return dict(json.loads(file.read_text())) if file.exists() else None

    @property
    def gpus_needed(self) -> int:
        return self.task.ranks_per_node if self.task.device == "cuda" else 0

    def expected(self, health: Health) -> float | None:
        """Gbit/s from a node to another: what the profile expects, less where the run asks for slower links."""
        link = bits_per_second(self.task.link) / 1e9 if self.task.link else float("inf")
        expected = health.between_nodes_gbit_s
        return None if expected is None else min(expected, link)

    def ask(self, nodes: Sequence[str]) -> Asked:
        """What each node says of itself; those that say nothing are asked once more."""
        place = self.folder / "health" / self.allocation.name.replace("/", "-")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        words = ["harness.launch.slurm.node", str(place), str(self.folder.parent.parent)]
        before = time.time()
        asked = Asked({}, before, before)
        for _ in range(2):
            self.start(words, NODES_SECONDS)
            facts = [Facts.from_json(json.loads(file.read_text())) for file in sorted(place.glob("*.json"))]
            asked = Asked({one.node: one for one in facts}, before, time.time())
            if self.stop.asked or all(node in asked.facts for node in nodes):
                break
        return asked

    def look_at_links(self, health: Health) -> Network | None:
        """The network baseline; where it is slower than expected it is measured again, and each better number taken."""
        network = self.measure()
        if network is None or not self.too_slow(network, health) or (again := self.measure(True)) is None:
            return network
        better = {key: max(rate, rates_in(network).get(key, 0.0)) for key, rate in rates_in(again).items()}
        inside = {
            node: max(rate, inside_of(network).get(node, 0.0)) for node, rate in inside_of(again).items()
        }
        transfers = [{"from": a, "to": b, "gbit_s": rate} for (a, b), rate in better.items()]
        return {**again, "transfers": transfers, "inside": inside}

    def too_slow(self, network: Network, health: Health) -> bool:
        expected = self.expected(health)
        slow = expected is not None and min(rates_in(network).values(), default=expected) < health.least(
            expected
        )
        return slow or bool(judge_inside(inside_of(network), health))

    def decide(
        self, health: Health, nodes: Sequence[str], findings: Sequence[Finding], network: Network | None
    ) -> tuple[Check, list[str]]:
        """The check, and which of its nodes make it necessary to go elsewhere."""
        cluster, expected = read_cluster(self.folder), self.expected(health)
        earlier = read_checks(self.folder.parent, cluster, health.exclude_hours)
        rates = tuple((a, b, rate) for (a, b), rate in rates_in(network).items())
        name, group = self.allocation.name, self.task.group
        check = Check(name, group, tuple(nodes), tuple(findings), rates, cluster=cluster)
        rows = (network or {}).get("rows", ())
        links = link_findings([*earlier, check], health, expected)
        links = links or judge_together(rows, self.task.ranks_per_node, health, expected)
        check = replace(check, findings=(*findings, *links))
        already = excluded_nodes(earlier)
        wanted = to_leave_out([*earlier, check], health, expected)
        wanted.sort(key=lambda node: node not in already)  # who is out already stays so first
        allowed = wanted[: health.exclude_at_most]
        here, over = ([node for node in nodes if node in some] for some in (allowed, wanted))
        if here and (problem := place_without(self.folder / "submit.sbatch", allowed)):
            why_not = f"without {', '.join(here)} SLURM has no place for the group: {problem}"
            kept = tuple(node for node in allowed if node not in here)
            return replace(check, excluded=kept, why_not=why_not), []
        full = f"exclude_at_most is {health.exclude_at_most}" if len(over) > len(here) else None
        return replace(check, excluded=tuple(allowed), why_not=full), here

    def send(self, check: Check, here: Sequence[str]) -> bool:
        """Whether the task was sent elsewhere; where SLURM refuses, the nodes are taken as they are."""
        ever = {node for one in read_checks(self.folder.parent) for node in one.excluded}
        problem = send_elsewhere(self.allocation, check.excluded, ever)
        if problem is None:
            print(f"hpz: sent again without {', '.join(check.excluded)}", file=sys.stderr)
            return True
        kept = tuple(node for node in check.excluded if node not in here)
        self.write(replace(check, excluded=kept, why_not=f"SLURM did not send the task again: {problem}"))
        return False

    def write(self, check: Check) -> None:
        with (self.folder / FILE).open("a") as stream:
            stream.write(check.line())


def rates_in(network: Mapping[str, Any] | None) -> dict[tuple[str, str], float]:
    """Gbit/s from node to node of a network baseline."""
    return {(one["from"], one["to"]): one["gbit_s"] for one in (network or {}).get("transfers", ())}


def inside_of(network: Mapping[str, Any] | None) -> dict[str, float]:
    """Bus bandwidth inside each node of a network baseline, in Gbit/s."""
    return dict((network or {}).get("inside") or {})
