"""The rings side by side: which of them start first, what stays on one worker, and how long each took."""

from __future__ import annotations

import gc
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The ring that mostly waits starts first and has a worker to itself; small tests fill up the end.
RINGS = ("slurm", "deepspeed", "browser", "gpu", "unit")
TOGETHER = ("slurm", "browser")  # share what is started once: a cluster, a browser


def ring_of(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0]


class Rings:
    """A plugin of pytest."""

    def __init__(self) -> None:
        self.tests: defaultdict[str, set[str]] = defaultdict(set)
        self.busy: defaultdict[str, float] = defaultdict(float)
        self.spans: dict[str, tuple[float, float]] = {}

    @pytest.hookimpl(tryfirst=True)  # xdist then reads the groups
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: RINGS.index(ring_of(item)))
        for item in items:
            if (ring := ring_of(item)) in TOGETHER and not item.get_closest_marker("xdist_group"):
                item.add_marker(pytest.mark.xdist_group(ring))

    def pytest_collection_finish(self) -> None:
        gc.freeze()  # collections then pass over what all tests import

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        ring = report.nodeid.rpartition("tests/")[2].partition("/")[0]
        self.tests[ring].add(report.nodeid)
        self.busy[ring] += report.duration
        first, last = self.spans.get(ring, (report.start, report.stop))
        self.spans[ring] = min(first, report.start), max(last, report.stop)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Beside the wall the sum over workers, which work on several rings at a time."""
        for ring in sorted(self.spans, key=lambda ring: self.spans[ring]):
            first, last = self.spans[ring]
            terminalreporter.write_line(
                f"{ring}: {len(self.tests[ring])} tests in {last - first:.0f} s, {self.busy[ring]:.0f} s of one worker"
            )
