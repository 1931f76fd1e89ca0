"""Keeps several runs at work side by side, each as a group of ranks forked from a warm process."""

from __future__ import annotations

import os
import selectors
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from harness.launch.memory import out_of_memory
from harness.record import Exit, RunDirectory, Status
from harness.study import Run, Study
from harness.system.child import Child, python_path
from harness.system.places import cache_folder
from harness.system.ports import Port
from harness.system.utc import utc_now
from harness.variants import Variant, overlay_path

GIB = 2**30
RANK_MEMORY = 0.7 * GIB  # a rank of a toy model, forked warm, with room to spare
START_SECONDS = 300  # for a warm process to import everything
SERVER = "harness.launch.forkserver"


@dataclass(frozen=True)
class Progress:
    """One thing that happened, for whoever watches."""

    kind: Literal["started", "finished", "skipped"]
    run: Run
    status: Status


Watcher = Callable[[Progress], None]


class Server(Child):
    """A warm process of one overlay and device."""

    def __init__(self, overlay: Path, device: str, errors: Path, witness: str | None) -> None:
        super().__init__(
            "the process that starts ranks",
            [sys.executable, "-m", SERVER, device],
            errors,
            {
                "PYTHONPATH": python_path(overlay),
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "HPZ_WITNESS": witness or "",
            },
        )
        self.ready, self.deadline = False, time.monotonic() + START_SECONDS

    def check_started(self) -> None:
        """Raises RunFailed when the imports take too long to end at all."""
        if not self.ready and time.monotonic() > self.deadline:
            raise self.failed(f"has not imported everything after {START_SECONDS:g} s")


@dataclass
class Active:
    """A run whose ranks are alive."""

    run: Run
    directory: RunDirectory
    server: Server
    deadline: float
    port: Port  # where its ranks meet
    exits: dict[int, Exit] = field(default_factory=dict)
    verdict: tuple[str, str] | None = None  # state and reason, once the launcher has decided to end the run

    def end(self, state: str, reason: str) -> None:
        """Take all ranks down; the first reason stands."""
        if self.verdict is None:
            self.verdict = (state, reason)
            self.server.send({"kill": str(self.directory.path)})


class Launcher:
    """Keeps the lanes full until all runs have ended."""

    def __init__(
        self,
        study: Study,
        directories: dict[str, RunDirectory],
        watch: Watcher,
        witness: str | None = None,
    ) -> None:
        self.study, self.directories, self.watch, self.witness = study, directories, watch, witness
        self.selector = selectors.DefaultSelector()
        self.servers: dict[tuple[Path, str], Server] = {}
        self.active: dict[str, Active] = {}

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers.values():
            self._stop(server)
        self.selector.close()
        for active in self.active.values():
            problem = active.server.problem
            state, reason = ("failed", problem) if problem else ("interrupted", "interrupted")
            active.directory.update_status(state=state, ended_utc=utc_now(), reason=reason)

    def launch(self, runs: Iterable[Run]) -> None:
        queue = in_order(runs)[::-1]  # popped from the end
        lanes = self.study.launch.lanes or default_lanes(queue)
        if any(run.device == "cuda" for run in queue):
            self._warm_all(queue)
        while queue or self.active:
            while queue and len(self.active) < lanes:
                self._start(queue.pop())
            self._retire(queue)
            self._listen()
            self._check_deadlines()

    def _warm_all(self, runs: Iterable[Run]) -> None:
        """Start every warm process that will be needed and wait for them, so that no import disturbs a timed run."""
        for run in runs:
            self._server(run)
        while not all(server.ready for server in self.servers.values()):
            self._listen()

    def _listen(self) -> None:
        """Hear what the warm processes have to say, for half a second at most."""
        for key, _ in self.selector.select(timeout=0.5):
            self._hear(key.data)
        for server in self.servers.values():
            server.check_started()

    def _start(self, run: Run) -> None:
        directory = self.directories[run.run_id]
        server = self._server(run)
        directory.set_logs_aside()
        status = directory.update_status(
            state="running",
            attempts=directory.status().attempts + 1,
            started_utc=utc_now(),
            ended_utc=None,
            heartbeat_utc=utc_now(),
            exit={},
            reason=None,
            final=None,
        )
        deadline = time.monotonic() + self.study.launch.timeout_seconds
        port = Port()
        self.active[str(directory.path)] = Active(run, directory, server, deadline, port)
        server.send({"start": str(directory.path), "world": run.shape.world_size, "port": port.number})
        self.watch(Progress("started", run, status))

    def _server(self, run: Run) -> Server:
        key = _server_key(run)
        if key not in self.servers:
            self.servers[key] = self._start_server(*key)
        return self.servers[key]

    def _start_server(self, overlay: Path, device: str) -> Server:
        runs = next(iter(self.directories.values())).path.parent
        server = Server(overlay, device, runs / f".server-{overlay.name[:24]}-{device}.txt", self.witness)
        self.selector.register(server, selectors.EVENT_READ, server)
        return server

    def _retire(self, queue: list[Run]) -> None:
        """End warm processes that no run needs any more, to give their memory back."""
        needed = {_server_key(run) for run in queue} | {
            _server_key(active.run) for active in self.active.values()
        }
        for key in self.servers.keys() - needed:
            self._stop(self.servers.pop(key))

    def _stop(self, server: Server) -> None:
        self.selector.unregister(server)
        server.stop()
        server.errors.unlink(missing_ok=True)

    def _hear(self, server: Server) -> None:
        for message in server.receive():
            if "ready" in message:
                server.ready = True
            elif message["run"] in self.active:
                self._rank_ended(self.active[message["run"]], message)

    def _rank_ended(self, active: Active, message: dict[str, Any]) -> None:
        rank, code, killed = message["rank"], message["code"], message["signal"]
        lines = active.directory.last_lines(rank) or ["no output"]
        ended_by_us = active.verdict is not None
        reason = "\n".join(["taken down with the run"] * ended_by_us + lines)
        active.exits[rank] = Exit(code=code, signal=killed, reason="finished" if code == 0 else reason)
        if code != 0 and not ended_by_us:
            memory = out_of_memory(active.directory, active.run.shape.world_size)
            state = "out-of-memory" if memory else "failed"
            active.end(state, f"rank {rank} ended with {killed or f'code {code}'}: {lines[-1]}")
        if len(active.exits) == active.run.shape.world_size:
            self._finish(active)

    def _finish(self, active: Active) -> None:
        del self.active[str(active.directory.path)]
        active.port.close()
        state, reason = active.verdict or ("done", None)
        if state == "done" and active.directory.status().final is None:
            state, reason = "failed", "every rank ended with code 0 but none wrote the final record"
        status = active.directory.update_status(
            state=state,
            reason=reason,
            exit={rank: e.model_dump() for rank, e in active.exits.items()},
            ended_utc=utc_now(),
        )
        self.watch(Progress("finished", active.run, status))

    def _check_deadlines(self) -> None:
        for active in self.active.values():
            if time.monotonic() > active.deadline:
                limit = self.study.launch.timeout_seconds
                active.end(
                    "timed-out", f"not finished after {limit:g} s (launch.timeout_seconds of the study)"
                )


def _server_key(run: Run) -> tuple[Path, str]:
    return _overlay(run.variant, run.release, cache_folder()), run.device


@lru_cache
def _overlay(variant: str, release: str, cache: Path) -> Path:
    """Checked once a process and cache folder; `cache` only tells these apart."""
    return overlay_path(Variant.parse(variant), release)


def in_order(runs: Iterable[Run]) -> list[Run]:
    """One overlay after the other, which needs one warm process at a time.

    On a GPU in the order of the study, variants in turn within each seed: what slowly changes there (clocks, heat)
    then falls on both runs of a pair alike.
    """
    runs = list(runs)
    return runs if any(run.device == "cuda" for run in runs) else sorted(runs, key=_server_key)


def default_lanes(runs: Iterable[Run]) -> int:
    """Runs side by side: one a core, as far as the free memory allows; ranks wait for each other half of their time.

    On a GPU one after the other, as a second run would change the order in which the first one's streams run.
    """
    if any(run.device == "cuda" for run in runs):
        return 1
    world_size = max(run.shape.world_size for run in runs)
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, int(available_memory() / (RANK_MEMORY * world_size))))


def available_memory() -> int:
    """Bytes that can be had without swapping (Linux's MemAvailable)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
