"""The parent's side of a process of our own, which may die at any moment: start it, speak with it, end it.

Whatever is being done with a process that is gone, its user gets one sentence with that process's last words. The other
side is harness.system.parent.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from harness.system.errors import RunFailed
from harness.system.places import REPOSITORY

PATIENCE_SECONDS = 10.0  # for a process that was asked to end


class Child:
    """A process that takes lines of JSON and answers with lines of JSON; `title` is what messages call it.

    Use as a context manager, or call `stop`. Not for several threads at once.
    """

    def __init__(
        self, title: str, command: Sequence[str], errors: Path, environment: Mapping[str, str]
    ) -> None:
        self.title, self.errors = title, errors
        self.patience = PATIENCE_SECONDS  # until it is killed that was asked to end, or has closed its end
        self.problem: str | None = None  # what has become of it, once that is known to be bad
        self._unread = b""
        with errors.open("wb") as stream:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                bufsize=0,  # so that closing has nothing left to write
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children in order
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._commands, self._answers = self.process.stdin, self.process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fileno(self) -> int:
        """What can be read once `receive` need not wait, for a selector."""
        return self._answers.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises RunFailed when the process is gone."""
        unsent = json.dumps(message).encode() + b"\n"
        try:
            while unsent:
                unsent = unsent[self._commands.write(unsent) :]
        except BrokenPipeError as error:
            raise self._gone() from error

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have arrived; waits until something has. Raises RunFailed when the process is gone."""
        chunk = os.read(self.fileno(), 65536)
        if not chunk:
            raise self._gone()
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message and wait for its one answer. Raises RunFailed when the process is gone."""
        self.send(message)
        while not (answers := self.receive()):
            pass
        (answer,) = answers
        return answer

    def failed(self, how: str) -> RunFailed:
        """The exception for what has become of the process, with its last words; they stay in `problem`."""
        self.problem = f"{self.title} {how}: {last_words(self.errors.read_text(errors='replace'))}"
        return RunFailed(self.problem)

    def stop(self) -> None:
        """End it, whatever state it is in: asked by the end of its input, killed when its patience is over."""
        self._commands.close()
        self._end()
        self._answers.close()

    def _gone(self) -> RunFailed:
        return self.failed(f"ended with code {self._end()}")

    def _end(self) -> int:
        try:
            return self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def discard(process: subprocess.Popen[Any]) -> None:
    """Kill a process of which nothing is expected any more, and leave neither it nor its pipes behind."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def run_to_end(command: Sequence[str], environment: Mapping[str, str], failure: str) -> str:
    """Run a program of ours in the checkout and return what it printed.

    Raises RunFailed, `failure` and its last words, where it does not end with code 0.
    """
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise RunFailed(f"{failure}: {last_words(done.stderr)}")
    return done.stdout


def last_words(said: str) -> str:
    """The last line that says something: of a Python program that failed, the last line of its exception."""
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "no output")


def python_path(*first: Path) -> str:
    """PYTHONPATH for a child: these folders, this checkout, then what we were given."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys(str(path) for path in (*first, REPOSITORY, *given) if str(path)))
