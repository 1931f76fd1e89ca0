"""The pytest plugin: `@pytest.mark.hpz_streams` and `--hpz-streams`. Imports nothing heavy until a test asks for it.

With the switch this very process has the virtual device under CUDA's names before any conftest is imported, and each
test runs in processes forked from it. A marked test without the switch is given to a pytest of its own
(harness.suite.served), so that the rest of the suite keeps the device that it has.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

POLICIES = ("side-first", "main-first")
POLICY = re.compile(r"side-first|main-first|eager|random\(\d+\)|pct\(\d+(,\d+,\d+)?\)|timed(\(.*\))?")
MARK = "hpz_streams"
USE = "@pytest.mark.hpz_streams(policies=[…], ranks=N, timeout=SECONDS)"


@dataclass(frozen=True)
class Wanted:
    """How one test is run: once analysed in the order of issue, then under each policy."""

    policies: tuple[str, ...] = POLICIES
    ranks: int = 1  # processes that run the test; one, where it starts its own
    timeout: float = 120.0  # seconds for one execution


def policies_of(text: str | Sequence[str]) -> tuple[str, ...]:
    """Names of policies, as `side-first,random(1)` or a list; none for the analysis alone. Raises ValueError."""
    names = re.split(r",(?![^(]*\))", text) if isinstance(text, str) else list(text)
    names = [name.strip() for name in names if name.strip() != "none"]
    for name in names:
        if not POLICY.fullmatch(name):
            raise ValueError(
                f"{name!r} is no policy; use side-first, main-first, random(SEED), pct(SEED) or none, as in "
                "--hpz-streams=side-first (with the sign, or the next word is taken for one)"
            )
    return tuple(names)


def _policies(text: str) -> tuple[str, ...]:
    try:
        return policies_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hpz-streams", "streams: races and hostile schedules (hpz-lab)")
    group.addoption(
        "--hpz-streams",
        nargs="?",
        const=POLICIES,
        default=None,
        type=_policies,
        metavar="POLICIES",
        help="run every test on the virtual device: analysed for unordered accesses, then under these schedules "
        f"(default {','.join(POLICIES)}; none: analysis alone); no GPU is needed",
    )
    group.addoption(
        "--hpz-streams-timeout",
        type=float,
        default=Wanted.timeout,
        metavar="SECONDS",
        help=f"for one execution of one test (default {Wanted.timeout:.0f})",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARK}(policies=[...], ranks=N, timeout=SECONDS): run on the virtual device under hostile schedules",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest or test asks for CUDA or for DeepSpeed's accelerator."""
    if early_config.known_args_namespace.hpz_streams is not None:
        from harness.suite.process import open_session

        open_session()


def wanted_of(item: pytest.Item) -> Wanted | None:
    """How a test is to be run; None where nobody asks for it. Raises pytest.UsageError for a mark that says nothing."""
    config = item.config
    mark = item.get_closest_marker(MARK)
    switch = config.getoption("hpz_streams")
    if mark is None and switch is None:
        return None
    wanted = Wanted(timeout=config.getoption("hpz_streams_timeout"))
    if switch is not None:
        wanted = replace(wanted, policies=switch)
    return wanted if mark is None else _marked(wanted, mark, item.nodeid)


def _marked(wanted: Wanted, mark: pytest.Mark, nodeid: str) -> Wanted:
    said = dict(mark.kwargs)
    if mark.args or said.keys() - {"policies", "ranks", "timeout"}:
        raise pytest.UsageError(f"{nodeid}: the mark hpz_streams is written {USE}")
    if not isinstance(said.get("ranks", 1), int) or said.get("ranks", 1) < 1:
        raise pytest.UsageError(f"{nodeid}: hpz_streams(ranks={said['ranks']!r}): give a whole number from 1")
    if "policies" in said:
        try:
            said["policies"] = policies_of(said["policies"])
        except ValueError as error:
            raise pytest.UsageError(f"{nodeid}: hpz_streams(policies=…): {error}") from None
    return replace(wanted, **said)


def pytest_collection_finish(session: pytest.Session) -> None:
    """A wrong mark ends the session before its first test."""
    for item in session.items:
        wanted_of(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    wanted = wanted_of(item)
    if wanted is None:
        return None
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item, wanted):
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _reports(item: pytest.Item, wanted: Wanted) -> Sequence[pytest.TestReport]:
    if item.config.getoption("hpz_streams") is not None:
        from harness.suite.item import run_item

        return run_item(item, wanted)
    from harness.suite.asked import ask

    return ask(item)


def pytest_unconfigure(config: Any) -> None:
    """The process in which marked tests ran ends with the session."""
    if (server := getattr(config, "_hpz_streams_server", None)) is not None:
        server.stop()
