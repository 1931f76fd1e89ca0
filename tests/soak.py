"""Runs rings of tests again and again, in random order on a busy machine, and tells which do not pass every time.

`python -m tests.soak`, or `make soak`. Each round leaves a log and a JUnit file in the soak's folder, from which
`--report FOLDER` makes the table again; `--resume FOLDER` goes on with a soak that was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from harness.system.child import discard
from harness.system.parent import die_with

REPOSITORY = Path(__file__).resolve().parents[1]
RINGS = ("tests/deepspeed", "tests/slurm", "tests/browser", "tests/gpu")
TIMEOUT_SECONDS = 900  # of a test; the machine is kept busy on purpose
END_SECONDS = 60.0  # for tests that were interrupted to take down what they had started


@dataclass(frozen=True)
class Plan:
    """What a soak does; kept in its folder, so that it can go on."""

    rings: tuple[str, ...]
    rounds: int
    seed: int  # of the first round's order; that of round N is `seed` + N
    loops: int  # busy processes beside the tests
    workers: int = 1  # tests at a time


def main(words: list[str] | None = None) -> int:
    """0: all tests passed in all rounds that were made; 1: not so; 130: interrupted, and so far they did."""
    options = parsed(words)
    if options.report:
        return report(options.report)
    plan, folder = resumed(options.resume) if options.resume else begun(options)
    print(f"{plan.rounds} rounds of {' '.join(plan.rings)}, seed {plan.seed}, in {folder}", flush=True)
    code = 0
    try:
        with busy(plan.loops):
            soak(plan, folder)
    except KeyboardInterrupt:
        print(f"interrupted; go on with: python -m tests.soak --resume {folder}")
        code = 130
    return report(folder) or code


def parsed(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rings", nargs="*", default=RINGS, help="folders, files or single tests")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--loops", type=int, default=2, help="busy processes beside the tests")
    parser.add_argument("--workers", type=int, default=(os.cpu_count() or 1) + 1, help="tests at a time")
    parser.add_argument("--folder", type=Path, help="a new folder for this soak; default: .soak/TIME")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with an interrupted soak")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="only print the table of a soak")
    return parser.parse_args(words)


def begun(options: argparse.Namespace) -> tuple[Plan, Path]:
    folder = options.folder or REPOSITORY / ".soak" / time.strftime("%Y-%m-%d_%H-%M-%S")
    plan = Plan(tuple(options.rings), options.rounds, options.seed, options.loops, options.workers)
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(asdict(plan)))
    return plan, folder


def resumed(folder: Path) -> tuple[Plan, Path]:
    content = json.loads((folder / "plan.json").read_text())
    return Plan(**{**content, "rings": tuple(content["rings"])}), folder


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep processors busy until the end of the block, or of this process, however that ends."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command, preexec_fn=partial(die_with, os.getpid())) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            discard(process)


def soak(plan: Plan, folder: Path) -> None:
    """Make the rounds that have not been made."""
    for number in range(plan.rounds):
        log = folder / f"round-{number:03d}.txt"
        if log.exists():
            continue
        started, working = time.monotonic(), log.with_suffix(".now")
        code = run_tests(plan, plan.seed + number, working, log.with_suffix(".xml"))
        working.replace(log)
        took = time.monotonic() - started
        print(f"round {number}, seed {plan.seed + number}: exit code {code}, {took:.0f} s", flush=True)


def run_tests(plan: Plan, seed: int, log: Path, junit: Path) -> int:
    """All tests once, in an order that follows from `seed`; interrupted, they take down what they had started."""
    shuffled = ["-p", "randomly", f"--randomly-seed={seed}", "--randomly-dont-reset-seed"]
    patient = f"--timeout={TIMEOUT_SECONDS}"
    at_a_time = ["-n", str(plan.workers), "--no-loadscope-reorder"] if plan.workers > 1 else []
    with log.open("w") as stream:
        tests = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pytest",
                *shuffled,
                *at_a_time,
                patient,
                f"--junit-xml={junit}",
                *plan.rings,
            ],
            cwd=REPOSITORY,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches them once, from here
            preexec_fn=partial(die_with, os.getpid()),
        )
        try:
            return tests.wait()
        except KeyboardInterrupt:
            tests.send_signal(signal.SIGINT)
            try:
                tests.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                discard(tests)
            junit.unlink(missing_ok=True)
            raise


def report(folder: Path) -> int:
    """Print which tests did not pass every time, worst first; 1 where there are any, or no round was made."""
    logs = sorted(folder.glob("round-*.txt"))
    failures: defaultdict[str, list[Path]] = defaultdict(list)
    for log in logs:
        for name in failed_in(log.with_suffix(".xml")):
            failures[name].append(log)
    print(f"{len(logs)} rounds were made; {len(failures)} tests did not pass every time")
    for name, seen in sorted(failures.items(), key=lambda item: (-len(item[1]), item[0])):
        print(f"{len(seen):4d} of {len(logs)}  {name}  {seen[0]}")
    return int(bool(failures) or not logs)


def failed_in(junit: Path) -> list[str]:
    """The tests that failed, or could not be set up or taken down; the round as such where nothing ran."""
    try:
        cases = list(ElementTree.parse(junit).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return ["(the tests left no result)"]
    if not cases:
        return ["(no test was found)"]
    return [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]


if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM):  # also where it was started in the background
        signal.signal(stop, signal.default_int_handler)
    sys.exit(main())
