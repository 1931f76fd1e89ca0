"""A child may die at any moment, and its parent, too: each side ends in order and says one sentence at most."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.system.child import Child, discard, last_words, python_path, run_to_end
from harness.system.errors import RunFailed

ECHO = """
from harness.system.parent import Parent
parent = Parent()
print("what an import may print")
while (commands := parent.commands()) is not None:
    for command in commands:
        parent.answer(command)
"""
FAILS = "raise ImportError('no such layer')"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def child(program: str, tmp_path: Path) -> Child:
    environment = {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": ""}  # as on most machines
    return Child("the echo", [sys.executable, "-c", program], tmp_path / "errors.txt", environment)


def test_a_child_answers_whatever_else_it_prints(tmp_path: Path) -> None:
    with child(ECHO, tmp_path) as echo:
        assert echo.ask({"a": 1}) == {"a": 1}
        long = {"text": "x" * 200_000}  # more than a pipe holds
        assert echo.ask(long) == long
    assert echo.process.returncode == 0
    assert "what an import may print" in echo.errors.read_text()


def test_sending_to_a_child_that_is_gone_gives_its_last_words(tmp_path: Path) -> None:
    with child(FAILS, tmp_path) as dead:
        dead.process.wait()
        with pytest.raises(RunFailed, match=r"^the echo ended with code 1: ImportError: no such layer$"):
            dead.send({})
    assert dead.problem == "the echo ended with code 1: ImportError: no such layer"


def test_a_child_that_is_killed_after_it_was_asked_is_told_the_same_way(tmp_path: Path) -> None:
    with child(DEAF, tmp_path) as dead:
        dead.send({})  # stays in the pipe: nobody reads it
        dead.process.kill()
        with pytest.raises(RunFailed, match=r"^the echo ended with code -9: no output$"):
            dead.receive()


def test_a_child_that_is_gone_is_stopped_without_a_word(tmp_path: Path) -> None:
    dead = child(DEAF, tmp_path)
    dead.send({})
    dead.process.kill()
    dead.process.wait()
    dead.stop()
    dead.stop()


def test_a_child_that_does_not_end_when_asked_is_killed(tmp_path: Path) -> None:
    deaf = child(DEAF, tmp_path)
    deaf.patience = 0.0
    deaf.stop()
    assert deaf.process.returncode == -signal.SIGKILL


def test_a_child_that_only_closes_its_end_is_gone_too(tmp_path: Path) -> None:
    with child("import os, time; os.close(1); time.sleep(600)", tmp_path) as mute:
        mute.patience = 0.0
        with pytest.raises(RunFailed, match="the echo ended with code -9"):
            mute.receive()


def test_a_discarded_process_leaves_nothing_behind() -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    discard(process)
    discard(process)
    assert process.returncode == -signal.SIGKILL
    assert process.stdin is not None and process.stdin.closed


def test_a_program_that_fails_is_told_by_its_last_words(tmp_path: Path) -> None:
    assert run_to_end([sys.executable, "-c", "print('well')"], {}, "it failed") == "well\n"
    with pytest.raises(RunFailed, match=r"^it failed: ImportError: no such layer$"):
        run_to_end([sys.executable, "-c", FAILS], {}, "it failed")


def test_last_words_are_the_last_line_that_says_something() -> None:
    assert last_words("Traceback (most recent call last):\n  File ...\nKeyError: 'x'\n\n") == "KeyError: 'x'"
    assert last_words("\n") == "no output"


# ---- the child's side


def orphan(program: str, tmp_path: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A process whose parent can be made to look dead: both its pipes are closed once it is up."""
    errors = tmp_path / "errors.txt"
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            env={**os.environ, "PYTHONPATH": python_path()},
        )
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    return process, errors


TELLS_NOBODY = """
import sys
from harness.system.parent import Parent
parent = Parent()
parent.answer({"up": True})
sys.stdin.read(1)
for number in range(3):
    parent.answer({"number": number})
sys.exit("still there")
"""


def test_a_child_whose_parent_is_gone_ends_quietly_as_it_answers(tmp_path: Path) -> None:
    process, errors = orphan(TELLS_NOBODY, tmp_path)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.close()
    process.stdin.write(b"x")
    process.stdin.close()
    assert process.wait() == 0
    assert errors.read_text() == ""


SERVES = """
import os, time
from pathlib import Path
from harness.system.parent import Parent
parent = Parent()
rank = parent.fork_rank(lambda: time.sleep(600), Path("{log}"), {{"RANK": "0"}})
parent.answer({{"rank": rank}})
while parent.commands() is not None:
    parent.answer({{}})
"""


@pytest.mark.parametrize("blow", ["closed", "killed"])
def test_ranks_end_with_the_process_that_forked_them(blow: str, tmp_path: Path) -> None:
    with child(SERVES.format(log=tmp_path / "log.txt"), tmp_path) as server:
        (up,) = server.receive()
        rank = psutil.Process(up["rank"])
        if blow == "killed":
            server.process.kill()
    rank.wait(60)
    assert server.errors.read_text() == ""


ENDS = """
import sys
from pathlib import Path
from harness.system.parent import Parent, place_of
parent = Parent()
def work():
    import os
    print(os.environ["RANK"], os.environ["MASTER_PORT"], sys.stdin.read() == "")
    {end}
pid = parent.fork_rank(work, Path("{log}"), place_of(3, 4, 15001))
import os
parent.answer({{"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}})
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no data')", 1, "no data"),
        ("raise KeyError('layer')", 1, "KeyError: 'layer'"),
    ],
)
def test_a_rank_knows_its_place_and_ends_with_its_work(
    end: str, code: int, said: str, tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    with child(ENDS.format(end=end, log=log), tmp_path) as server:
        assert server.receive() == [{"code": code}]
    first, *rest = log.read_text().splitlines()
    assert first == "3 15001 True"
    assert last_words("\n".join(rest)) == (said or "no output")


def test_a_process_whose_starter_has_died_already_does_not_live_on() -> None:
    program = "from harness.system.parent import die_with; die_with(1 << 30); print('lives on')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
