"""Runs a trace on a cluster: a discrete-event simulation of the host thread, the streams and what they share.

The host issues one record after another and blocks on synchronises; a stream is a FIFO; an event stands for a point in
a stream (CUDA C++ Programming Guide, "Asynchronous Concurrent Execution"). Work that runs at the same time shares the
GPU's memory traffic and multiprocessors, its NVLink and the node's NIC: each resource that is asked for more than it
has slows all who use it in proportion. Memory that the caching allocator may not reuse yet makes the host wait when the
GPU is full.

Without contention the times are a longest path, so more bandwidth, or a wait less, never makes a step slower. With
contention both can (Graham 1969, "Bounds on multiprocessing timing anomalies"): a transfer that starts earlier may slow
one that matters more.
"""

from __future__ import annotations

import numpy as np

from harness.hardware import Cluster
from harness.simulate.costs import LIMITS, RESOURCES, Costs, costs
from harness.simulate.state import Job, Memory, Stream
from harness.simulate.timeline import LIMITED_BY, Timeline
from harness.simulate.trace import Kind, Trace

HOST_CAUSE = -1  # a row started because the host issued it then
ISSUED = (Kind.OP, Kind.TRANSFER, Kind.COLLECTIVE)


def simulate(trace: Trace, on: Cluster, *, repeat: int = 2) -> Timeline:
    """Run the step `repeat` times in a row; the last one is reported, as those before have filled the streams."""
    return _Simulation(trace, on, costs(trace, on)).run(repeat)


class _Simulation:
    def __init__(self, trace: Trace, on: Cluster, cost: Costs) -> None:
        self.trace, self.on, self.cost = trace, on, cost
        self.rows = len(trace)
        names = ("kind", "stream", "event", "storage", "payload")
        self.table = list(zip(*(trace.columns[name].tolist() for name in names), strict=True))
        self.host_cost, self.solo = cost.host.tolist(), cost.solo.tolist()
        self.use = [tuple(each) for each in cost.use.tolist()]
        count = 1 + max([0, *trace.columns["stream"].tolist()])
        self.streams = [Stream() for _ in range(count)]
        self.active: list[Job] = []
        self.events: dict[int, tuple[int, int]] = {}
        self.moved = 0.0  # when the rates of active jobs were last brought up to date
        self.memory = Memory(int(trace.about.get("live_bytes", 0)), on.gpu.memory_bytes)

    # ---- the run

    def run(self, repeat: int) -> Timeline:
        total = self.rows * repeat
        self.start, self.end = [np.nan] * total, [np.nan] * total
        self.cause = [HOST_CAUSE] * total  # of a start: the run whose end allowed it
        self.begun, self.ended, self.waited = [0.0] * total, [0.0] * total, [0.0] * total
        self.released = [HOST_CAUSE] * total  # of a host wait: the run whose end let it go on
        self.memory_waits: set[int] = set()
        host = 0.0
        for index in range(total):
            host = self._host(index, host)
            if (index + 1) % self.rows == 0 and index + 1 < total:
                self.memory.restart()
        self._drain()
        ends = [np.nanmax([0.0, *self.end[: self.rows * (n + 1)]]) for n in range(repeat)]
        marks = [0.0, *(max(end, self.ended[self.rows * (n + 1) - 1]) for n, end in enumerate(ends))]
        return self._timeline(repeat, marks)

    def _timeline(self, repeat: int, marks: list[float]) -> Timeline:
        last = slice(self.rows * (repeat - 1), self.rows * repeat)
        return Timeline(
            trace=self.trace,
            cost=self.cost,
            host_start=np.array(self.begun[last]),
            host_end=np.array(self.ended[last]),
            blocked=np.array(self.waited[last]),
            start=np.array(self.start[last]),
            end=np.array(self.end[last]),
            step_start=float(marks[-2]),
            step_end=float(marks[-1]),
            limits=self._critical_path(marks[-2], marks[-1]),
            peak_bytes=self.memory.peak,
            memory_wait=sum(self.waited[index] for index in self.memory_waits if index >= last.start),
            fits=self.memory.fits,
        )

    def _host(self, index: int, host: float) -> float:
        """The host's turn at one record; returns when it goes on."""
        row = index % self.rows
        kind, stream, event, storage, size = self.table[row]
        self.begun[index] = host
        host += self.host_cost[row]
        self._advance(host)
        if kind <= Kind.COLLECTIVE:
            self._put(stream, index, host)
        elif kind == Kind.RECORD:
            self.events[event] = (stream, self.streams[stream].issued)
        elif kind == Kind.WAIT and self.on.streams:
            self._put_wait(stream, event, host)
        elif kind <= Kind.SYNC_ALL:
            host = self._block(index, self._targets(kind, stream, event), host)
        elif kind == Kind.ALLOC:
            host = self._alloc(index, storage, size, host)
        elif kind == Kind.FREE:
            self.memory.free(storage, size, self.streams)
        else:
            self.memory.keep(storage, stream)
        self.ended[index] = host
        return host

    def _targets(self, kind: int, stream: int, event: int) -> list[tuple[int, int]]:
        if kind == Kind.SYNC:
            return [(stream, self.streams[stream].issued)]
        if kind in (Kind.WAIT, Kind.SYNC_EVENT):
            return [self.events[event]] if event in self.events else []
        return [(number, each.issued) for number, each in enumerate(self.streams)]

    def _block(self, index: int, targets: list[tuple[int, int]], host: float) -> float:
        """Let the device run until all targets are reached."""
        asked = host
        while any(self.streams[stream].done < position for stream, position in targets):
            host = max(host, self._finish_next())
        if host > asked:
            self.waited[index] = host - asked
            self.released[index] = self.finished
        return host

    def _alloc(self, index: int, storage: int, size: int, host: float) -> float:
        """Where memory lacks, the allocator waits for all that was freed and is still in use (PyTorch notes, CUDA

        semantics: memory management), and gives it back.
        """
        if self.memory.lacks(size, self.streams):
            self.memory_waits.add(index)
            host = self._block(index, self.memory.pending_targets(), host)
            self.memory.settle(self.streams)
        self.memory.alloc(storage, size)
        return host

    # ---- streams

    def _put(self, number: int, index: int, now: float) -> None:
        stream = self.streams[number]
        stream.issued += 1
        stream.queue.append((index, 0, 0))
        if not stream.running and stream.waits_for is None:
            self._next(number, now, HOST_CAUSE)

    def _put_wait(self, number: int, event: int, now: float) -> None:
        if event not in self.events:
            return
        other, position = self.events[event]
        if other == number or self.streams[other].done >= position:
            return
        stream = self.streams[number]
        stream.queue.append((-1, other, position))
        stream.issued += 1
        if not stream.running and stream.waits_for is None:
            self._next(number, now, HOST_CAUSE)

    def _next(self, number: int, now: float, cause: int) -> None:
        """Start what stands at the head of an idle stream; `cause` is the run whose end made this possible."""
        stream = self.streams[number]
        queue = stream.queue
        while queue:
            index, other, position = queue[0]
            if index >= 0:
                queue.popleft()
                stream.running = True
                self.start[index], self.cause[index] = now, cause
                row = index % self.rows
                self._change(now)
                self.active.append(Job(index, number, self.solo[row], self.use[row], now))
                self._share(now)
                return
            if self.streams[other].done < position:
                stream.waits_for = (other, position)
                return
            queue.popleft()
            stream.waits_for = None
            stream.done += 1
            # Others may wait for the wait.
            self._wake(number, now, cause)

    def _wake(self, number: int, now: float, cause: int) -> None:
        done = self.streams[number].done
        for other, stream in enumerate(self.streams):
            if stream.waits_for is not None and stream.waits_for[0] == number and stream.waits_for[1] <= done:
                stream.waits_for = None
                self._next(other, now, cause)

    # ---- time

    def _advance(self, until: float) -> None:
        """Let the device run up to a time."""
        while self.active and min(job.end for job in self.active) <= until:
            self._finish_next()

    def _drain(self) -> None:
        while self.active:
            self._finish_next()

    def _finish_next(self) -> float:
        """The job that ends first ends; returns when."""
        job = min(self.active, key=lambda each: each.end)
        now = job.end
        self._change(now)
        self.active.remove(job)
        self._share(now)
        self.finished = job.run
        self.end[job.run] = now
        stream = self.streams[job.stream]
        stream.running = False
        stream.done += 1
        self._next(job.stream, now, job.run)
        self._wake(job.stream, now, job.run)
        return now

    def _change(self, now: float) -> None:
        """Account for the work done at the rates so far."""
        if self.on.contention:
            passed = now - self.moved
            for job in self.active:
                job.left -= job.rate * passed
        self.moved = now

    def _share(self, now: float) -> None:
        """New rates: whoever uses a resource of which too much is asked is slowed in proportion."""
        if not self.on.contention or not self.active:
            return
        if len(self.active) == 1:
            slow = [1.0] * len(RESOURCES)
        else:
            slow = [max(1.0, sum(job.use[r] for job in self.active)) for r in range(len(RESOURCES))]
        for job in self.active:
            use = job.use
            worst = max([1.0, *(slow[r] for r in range(len(RESOURCES)) if use[r] > 0)])
            job.rate = 1.0 / worst
            job.end = now + max(0.0, job.left) * worst

    # ---- the critical path

    def _critical_path(self, begin: float, finish: float) -> dict[str, float]:
        """Seconds between two moments by what bounds them: walk back from the end along what each start waited for."""
        spent = dict.fromkeys(LIMITED_BY, 0.0)
        last_run = max(
            range(len(self.end)), key=lambda i: self.end[i] if self.end[i] == self.end[i] else -1.0
        )
        index, on_host = len(self.ended) - 1, True
        if self.end[last_run] >= self.ended[-1]:
            index, on_host = last_run, False
        moment = finish
        while moment > begin and index >= 0:
            if on_host:
                index, moment, on_host = self._back_on_host(index, moment, begin, spent)
            else:
                start = max(begin, self.start[index])
                self._spend(index % self.rows, moment - start, spent)
                moment, before = start, self.cause[index]
                on_host = before == HOST_CAUSE
                index = index if on_host else before
        return spent

    def _back_on_host(
        self, index: int, moment: float, begin: float, spent: dict[str, float]
    ) -> tuple[int, float, bool]:
        """Back to the last host wait that waited; what the host did since is the host's."""
        while index >= 0 and self.waited[index] == 0.0 and self.begun[index] > begin:
            index -= 1
        if index < 0 or self.waited[index] == 0.0:
            spent["host"] += moment - begin
            return -1, begin, True
        released = max(begin, self.ended[index])
        spent["host"] += max(0.0, moment - released)
        if index in self.memory_waits:
            asked = max(begin, released - self.waited[index])
            spent["memory"] += released - asked
            return index - 1, asked, True
        return self.released[index], released, False

    def _spend(self, row: int, seconds: float, spent: dict[str, float]) -> None:
        if self.table[row][0] != Kind.COLLECTIVE:
            spent["compute"] += seconds
            return
        share = self.cost.latency[row] / self.solo[row] if self.solo[row] else 0.0
        bound = LIMITS[self.cost.limit[row]]
        spent["latency"] += seconds * share
        spent["nvlink" if bound == "latency" else bound] += seconds * (1 - share)
