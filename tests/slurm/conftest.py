"""A real cluster of two nodes for the whole ring, and studies that it runs in seconds."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.cluster import Cluster, Spec
from harness.cluster.cluster import temporary_cluster
from harness.cluster.needs import check_machine
from harness.launch.slurm.arrays import Submitted
from harness.launch.slurm.clients import Clients
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.submit import submit
from harness.record import RunDirectory, Status
from harness.study import Study, load_study, save_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from tests.conftest import StudyFile

LINK = "200mbit"
PATIENCE = 240.0  # seconds; on a busy machine everything comes late, and what comes at all is soon there on a quiet one


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    try:
        check_machine()
    except HarnessError as error:
        pytest.skip(str(error))
    with temporary_cluster(Spec(nodes=2, cpus=16, gpus=8, link=LINK)) as running:
        yield running


@pytest.fixture
def clients(cluster: Cluster) -> Clients:
    return Clients(tuple(cluster.prefix()), f"{cluster.name}-{cluster.keeper}-{cluster.keeper_started}")


@pytest.fixture(autouse=True)
def queries_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ask SLURM as often as a test likes, with a memory of its own."""
    monkeypatch.setattr("harness.launch.slurm.scheduler.QUERY_SECONDS", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def empty_queue(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave nothing to the next test, whatever went wrong in this one."""
    yield
    if "cluster" in request.fixturenames:
        running: Cluster = request.getfixturevalue("cluster")
        running.run(["sh", "-c", "scancel --me; scontrol update nodename=ALL state=resume 2>/dev/null"])
        wait_for(lambda: set(running.states().values()) == {"idle"})
        running.set_link(LINK)


@dataclass
class Submitter:
    """Submits a tiny study to the cluster, with quick ranks unless `real`."""

    cluster: Cluster
    study_file: StudyFile
    root: Path
    behaviour: dict[str, Any] = field(default_factory=dict)
    real: bool = False

    def profile(self, **changes: Any) -> Profile:
        base: dict[str, Any] = {
            "name": "test",
            "cpus_per_rank": 1,
            "time": "00:10:00",
            "signal_lead_seconds": 20,
            "network_baseline": False,
            "health": None,
            "blocks": 1,
            "wandb": "off",
            "environment": {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"},
            "local_cluster": self.cluster.name,
        }
        if not self.real:
            base["python"] = str(self._quick_python())
        return Profile.model_validate(base | changes)

    def __call__(
        self, profile: Profile | None = None, **study_changes: Any
    ) -> tuple[Study, Path, list[Submitted]]:
        study = load_study(self.study_file(**study_changes))
        results = self.root / "results"
        save_study(study, results)
        return study, results, submit(study, results, profile or self.profile())

    def _quick_python(self) -> Path:
        """Runs quick_rank.py where harness.launch.slurm.rank is asked for, and is Python otherwise."""
        script = self.root / "quick-python"
        quick = REPOSITORY / "tests" / "slurm" / "quick_rank.py"
        python, behaviour = shlex.quote(sys.executable), shlex.quote(json.dumps(self.behaviour))
        script.write_text(
            "#!/bin/sh\n"
            f"export QUICK_RANK={behaviour}\n"
            f'if [ "$2" = harness.launch.slurm.rank ]; then exec {python} {shlex.quote(str(quick))} "$@"; fi\n'
            f'exec {python} "$@"\n'
        )
        script.chmod(0o755)
        return script


@pytest.fixture
def submitter(cluster: Cluster, study_file: StudyFile, tmp_path: Path) -> Submitter:
    return Submitter(cluster, study_file, tmp_path)


def statuses(study: Study, results: Path) -> list[Status]:
    return [RunDirectory(results / "runs" / run.run_id).status() for run in study.runs]


def wait_for_states(study: Study, results: Path, *states: str, seconds: float = PATIENCE) -> list[Status]:
    """Wait until every run is in one of these states."""
    wait_for(lambda: all(status.state in states for status in statuses(study, results)), results, seconds)
    return statuses(study, results)


def wait_for(condition: Callable[[], Any], results: Path | None = None, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in time; {logs(results)}"
        time.sleep(0.1)


def logs(results: Path | None) -> str:
    files = sorted(results.glob("slurm/*/log/*.txt")) if results else []
    return "\n".join(f"{file}:\n{file.read_text()}" for file in files)
