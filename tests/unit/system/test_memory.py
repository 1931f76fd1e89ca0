"""The memory of a command counts what it starts, and what they share once."""

from __future__ import annotations

import subprocess
import sys
import time

from harness.system.memory import peak_of

MEGABYTE = 1_000_000
CHILD = f"held = bytearray({60 * MEGABYTE}); import sys; print(flush=True); sys.stdin.read()"
PARENT = f"""
import subprocess, sys
held = bytearray({60 * MEGABYTE})
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(flush=True)
sys.stdin.read()
"""


def test_a_command_and_its_child_are_both_counted() -> None:
    running = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert running.stdout is not None and running.stdin is not None
    with peak_of(running.pid, every=0.01) as peak:
        running.stdout.readline()
        while not peak.nbytes or peak.nbytes < 120 * MEGABYTE:
            assert running.poll() is None
            time.sleep(0.01)
    running.communicate()
    assert peak.nbytes < 300 * MEGABYTE


def test_a_process_that_is_gone_holds_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with peak_of(gone.pid, every=0.01) as peak:
        pass
    assert peak.nbytes is None
