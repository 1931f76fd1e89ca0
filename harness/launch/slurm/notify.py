"""Tells a command of the user's what has become of runs and studies; whatever becomes of the command harms nothing.

The command is a shell line. It gets the event as one line of JSON on standard input, and the sentence in HPZ_TEXT.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from harness.launch.slurm.arrays import submissions
from harness.record import OPEN, RunDirectory
from harness.system.child import last_words
from harness.system.utc import utc_now

NOTIFY_SECONDS = 30.0
Kind = Literal["run-done", "run-ended", "resubmitted", "given-up", "waiting", "study-ended"]


@dataclass(frozen=True)
class Event:
    """What has happened, and to what."""

    event: Kind
    text: str  # one sentence
    study: str
    results: str
    run_id: str | None = None
    state: str | None = None
    utc: str = field(default_factory=utc_now)


class Notifier:
    """Runs a command for each event, one after another, beside everything else; one that hangs is asked no more."""

    def __init__(
        self, command: str | None, complain: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    ) -> None:
        self.command, self.complain = command, complain
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._hung = False

    def tell(self, event: Event) -> None:
        if self.command is not None:
            self._worker.submit(self._run, self.command, event)

    def wait(self) -> None:
        """Until all that was told has arrived, or has failed to."""
        self._worker.shutdown()

    def _run(self, command: str, event: Event) -> None:
        if self._hung:
            return
        try:
            process = subprocess.Popen(
                ["sh", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, "HPZ_TEXT": event.text},
                start_new_session=True,
            )
            _, said = process.communicate(json.dumps(asdict(event)) + "\n", timeout=NOTIFY_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            self._hung = True
            self.complain(f"hpz: --notify took more than {NOTIFY_SECONDS:g} s, and is told nothing more")
        except OSError as error:
            self.complain(f"hpz: --notify could not be run: {error}")
        else:
            if process.returncode:
                self.complain(f"hpz: --notify ended with code {process.returncode}: {last_words(said)}")


def run_event(results: Path, study: str, run_id: str, state: str, why: str | None) -> Event:
    """A run has ended, well or not."""
    kind: Kind = "run-done" if state == "done" else "run-ended"
    text = f"{study}: {run_id} is {state}" + (f": {why}" if why else "")
    return Event(kind, text, study, str(results), run_id, state)


def study_event(results: Path, study: str, states: Iterable[str]) -> Event:
    """Nothing of a study goes on."""
    counts: dict[str, int] = {}
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    words = ", ".join(f"{count} {state}" for state, count in counts.items())
    whole = "done" if set(counts) == {"done"} else "ended"
    return Event("study-ended", f"{study} has ended: {words}", study, str(results), state=whole)


def study_ended_here(results: Path, study: str) -> Event | None:
    """For an array task at its end: the study's event where this was its last, once for all tasks that see it."""
    sent = submissions(results / "slurm")
    runs = dict.fromkeys(run_id for one in sent for task in one.tasks for run_id in task.runs)
    states = [RunDirectory(results / "runs" / run_id).status().state for run_id in runs]
    if not sent or any(state in OPEN for state in states):
        return None
    try:
        (sent[-1].folder / "told").touch(exist_ok=False)
    except OSError:
        return None
    return study_event(results, study, states)
