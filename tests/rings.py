"""The rings side by side: which of them start first, what stays on one worker, and how long each took."""

from __future__ import annotations

import gc
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# The ring that mostly waits starts first and has a worker to itself; small tests fill up the end.
RINGS = ("slurm", "deepspeed", "browser", "gpu", "unit")
# Files, and rings, whose tests share what is started or made once; the first that fits counts. SLURM's training has a
# cluster of its own, beside the tests that mostly wait.
TOGETHER = (
    "tests/slurm/test_training.py",
    "tests/slurm/",
    "tests/browser/",
    "tests/deepspeed/diagnose/test_triage_real.py",
    "tests/deepspeed/launch/test_finished.py",
    "tests/deepspeed/wheel/",
    "tests/deepspeed/race/test_race_programs.py",
    "tests/deepspeed/race/test_race_study.py",
    "tests/deepspeed/simulate/test_trace.py",
    "tests/deepspeed/workload/test_finetune.py",
    "tests/deepspeed/workload/test_partitioned_build.py",
    "tests/unit/cli/test_model_cli.py",
    "tests/unit/dashboard/",
    "tests/unit/page/test_pretrain_report.py",
    "tests/unit/page/test_report.py",
    "tests/unit/page/test_simulated_in_report.py",
    "tests/unit/study/test_hugging_face.py",
    "tests/unit/workload/test_packed.py",
)


def ring_of(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0]


def unit_of(node_id: str) -> str:
    """What goes to one worker with this test: the test alone, unless it is one of those that stay together."""
    return next((start for start in TOGETHER if node_id.startswith(start)), node_id)


class Rings:
    """A plugin of pytest."""

    def __init__(self) -> None:
        self.tests: defaultdict[str, set[str]] = defaultdict(set)
        self.busy: defaultdict[str, float] = defaultdict(float)
        self.spans: dict[str, tuple[float, float]] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Like xdist's own `loadgroup`, whose groups are silently lost with pytest 9.2 (pytest-xdist #1386)."""
        from xdist.scheduler import LoadScopeScheduling

        class Together(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return unit_of(nodeid)

        return Together(config, log)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: RINGS.index(ring_of(item)))

    def pytest_collection_finish(self) -> None:
        gc.freeze()  # collections then pass over what all tests import

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        ring = report.nodeid.split("/")[1]
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
