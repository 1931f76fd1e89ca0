"""Runs one test as the plugin was asked to, and says what became of it: its own result, or the race report."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from _pytest.skipping import evaluate_xfail_marks

from harness.race.merge import merge
from harness.race.report import Report
from harness.race.text import summary, text
from harness.suite.execution import Execution, execute
from harness.suite.plugin import Wanted

IN_ORDER = "the order of issue"
WORDS = {
    "race": "race",
    "freed-in-use": "block freed while in use",
    "unwritten-read": "read of unwritten memory",
}


class Told(str):
    """A failure as text, whose first line stands in pytest's summary."""

    reprcrash: SimpleNamespace

    def __new__(cls, lines: Sequence[str]) -> Told:
        told = super().__new__(cls, "\n".join(lines))
        told.reprcrash = SimpleNamespace(message=lines[0])
        return told


def run_item(item: pytest.Item, wanted: Wanted) -> list[pytest.TestReport]:
    """Run a test under the analysis and each policy; the reports of its phases.

    It fails as it fails in the order of issue, else with the race report where accesses are unordered or a policy
    makes it fail. It is skipped where it skips itself.
    """
    with tempfile.TemporaryDirectory(prefix="hpz-streams-") as scratch:
        _make_base_folder(item)

        def run(policy: str) -> Execution:
            return execute(item, policy, wanted.ranks, wanted.timeout, Path(scratch) / policy)

        analysed = run("busy")
        report = merge(analysed.ranks, item.nodeid)
        # A test that does nothing on the device has but one schedule.
        policies = _counted(wanted.policies, analysed) if analysed.passed and report.ops else []
        others = [run(policy) for policy in policies]
    reports = [*analysed.reports] or [failure(item, f"hpz_streams: {analysed.ended}")]
    if analysed.ended is None and any(one.skipped for one in reports):
        return reports
    last = next((one for one in reports if one.failed or one.when == "call"), reports[-1])
    if not analysed.passed:
        last.outcome = "failed"
        told = [f"hpz_streams: the test does not pass under {IN_ORDER} on the virtual device, races or not"]
        told += [f"hpz_streams: {analysed.ended}"] if analysed.ended else []
        last.longrepr = last.longrepr or Told(told)
        last.sections.append(("hpz_streams", "\n".join([*told, *(text(report) if report.races else ())])))
        return reports
    failing = [other for other in others if other.ended is None and _failed(other) is not None]
    if not report.races and not failing:
        last.sections.append(("hpz_streams", "\n".join([*_became(others), *summary(report)])))
        return reports
    last.outcome = "failed"
    last.longrepr = Told([_verdict(report, failing), *_became(others), "", *text(report)])
    for one in failing:
        last.sections += [(f"under {one.policy}", told.longreprtext) for told in one.reports if told.failed]
    if (expected := evaluate_xfail_marks(item)) is not None:
        last.outcome, last.wasxfail = "skipped", expected.reason
    return reports


def _counted(policies: Sequence[str], analysed: Execution) -> list[str]:
    """The policies; one of random priorities, `pct(SEED)`, falls at random among as many ops as the test issues."""
    ops = max(rank.ops for rank in analysed.ranks)
    return [re.sub(r"^pct\((\d+)\)$", rf"pct(\1,2,{ops})", policy) for policy in policies]


def _verdict(report: Report, failing: Sequence[Execution]) -> str:
    """The line that stands in pytest's summary."""
    kinds = Counter(race.kind for race in report.races)
    found = [f"{count} {WORDS[kind]}{'s' * (count > 1)}" for kind, count in kinds.items()]
    under = [f"fails under {', '.join(one.policy for one in failing)}"] if failing else []
    return f"hpz_streams: {'; '.join([', '.join(found) or 'no race found', *under])}"


def _became(others: Sequence[Execution]) -> Iterator[str]:
    """What became of the test under each policy."""
    yield f"under {IN_ORDER}: passed"
    for one in others:
        yield f"under {one.policy}: {'passed' if one.passed else _short(one)}"


def _short(one: Execution) -> str:
    if one.ended is not None:
        return f"says nothing ({one.ended.strip().splitlines()[-1]})"
    failed = _failed(one)
    if failed is None:
        return "skipped"
    crash = getattr(failed.longrepr, "reprcrash", None)
    message = crash.message if crash is not None else str(failed.longrepr)
    return f"FAILED: {message.strip().splitlines()[0]}"


def _failed(one: Execution) -> pytest.TestReport | None:
    return next((report for report in one.reports if report.failed), None)


def failure(item: pytest.Item, sentence: str) -> pytest.TestReport:
    """The report of a test that has none of its own."""
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=Told([sentence]),
        when="call",
    )


def _make_base_folder(item: pytest.Item) -> None:
    """One for the session, before its processes each make their own."""
    if (factory := getattr(item.config, "_tmp_path_factory", None)) is not None:
        factory.getbasetemp()
