"""Live progress of a local study: a rich display on a terminal, one plain line an event elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from harness.launch.launcher import Progress, Watcher
from harness.record import RunDirectory
from harness.study import Run, Study

RATE_WINDOW_SECONDS = 10.0


@contextmanager
def watch_runs(study: Study, results: Path, quiet: bool = False) -> Iterator[Watcher]:
    """A watcher for `run_study`; `quiet` says nothing."""
    console = Console(stderr=True)
    if quiet:
        yield lambda progress: None
    elif console.is_terminal:
        display = Display(study, results)
        with Live(display, console=console, refresh_per_second=4, transient=True):
            yield display.on
    else:
        yield PlainLines(len(study.runs), console).on


class PlainLines:
    """One line for each run that ends."""

    def __init__(self, total: int, console: Console) -> None:
        self.total, self.ended, self.console = total, 0, console
        self.started = time.monotonic()

    def on(self, progress: Progress) -> None:
        if progress.kind == "started":
            return
        self.ended += 1
        status = progress.status
        what = "done before" if progress.kind == "skipped" else status.state
        why = f": {status.reason}" if status.reason else ""
        elapsed = time.monotonic() - self.started
        line = f"[{self.ended}/{self.total}] {elapsed:6.1f} s  {progress.run.run_id}  {what}{why}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class Display:
    """Bar over all runs and a row for each that runs or did not end well: step, steps per second, loss, state."""

    def __init__(self, study: Study, results: Path) -> None:
        self.results = results
        self.rows: dict[str, tuple[Run, str]] = {}
        self.seen: dict[str, deque[tuple[float, int]]] = {}
        self.bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self.task = self.bar.add_task(study.name, total=len(study.runs))

    def on(self, progress: Progress) -> None:
        run_id, state = progress.run.run_id, progress.status.state
        self.rows[run_id] = progress.run, state
        if progress.kind == "started":
            self.seen[run_id] = deque(maxlen=64)
            return
        if state == "done":
            del self.rows[run_id]
        failed = sum(state != "running" for _, state in self.rows.values())
        self.bar.update(self.task, advance=1, description=f"{failed} failed" if failed else "runs")

    def __rich__(self) -> Group:
        table = Table(box=None, padding=(0, 2))
        for column in ("run", "step", "steps/s", "loss", "state"):
            table.add_column(column)
        for run_id, (run, state) in list(self.rows.items()):
            step, loss = last_step(RunDirectory(self.results / "runs" / run_id))
            rate = self._rate(run_id, step) if state == "running" else "–"
            table.add_row(run_id, f"{step}/{run.training.steps}", rate, loss, state)
        return Group(self.bar, table)

    def _rate(self, run_id: str, step: int) -> str:
        seen, now = self.seen[run_id], time.monotonic()
        seen.append((now, step))
        while now - seen[0][0] > RATE_WINDOW_SECONDS:
            seen.popleft()
        elapsed = now - seen[0][0]
        return f"{(step - seen[0][1]) / elapsed:.1f}" if elapsed > 0.5 else "–"


def last_step(directory: RunDirectory) -> tuple[int, str]:
    """Steps finished and the newest loss, read from the end of steps.jsonl."""
    import json

    try:
        with directory.steps_file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - 2048))
            line = json.loads(stream.read().rstrip(b"\n").rsplit(b"\n", 1)[-1])
    except (OSError, ValueError):
        return 0, "–"
    loss = line.get("loss")
    return int(line["step"]) + 1, "not finite" if loss is None else f"{loss:.4f}"
