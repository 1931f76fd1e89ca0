"""The memory of a finding has a name as soon as anybody finds one."""

from __future__ import annotations

from harness.race.findings import Finding
from harness.race.happens_before import Analysis
from harness.race.memory import Footprint
from harness.race.named import UNNAMED

WHOLE, FRONT, BACK = Footprint(0, 64), Footprint(0, 32), Footprint(32, 32)


def two_reads(first: tuple[Footprint, str | None], second: tuple[Footprint, str | None]) -> list[Finding]:
    """The findings of a write and two reads on other streams, whose memory is looked up to these names."""
    looked_up = dict((first, second))
    analysis = Analysis(lambda storage, view: looked_up[view])
    analysis.alloc(0, 64, 0)
    analysis.op(0, "copy_", 0, [], [(0, WHOLE)])
    analysis.op(1, "add", 1, [(0, first[0])], [])
    analysis.op(2, "mul", 2, [(0, second[0])], [])
    return list(analysis.findings.values())


def names(findings: list[Finding]) -> list[str]:
    return [name for found in findings for name in found.names]


def test_what_was_named_before_keeps_its_name() -> None:
    assert names(two_reads((WHOLE, "batch"), (FRONT, None))) == ["batch", "batch"]


def test_what_is_named_later_is_named_in_earlier_findings_and_their_cases() -> None:
    findings = two_reads((FRONT, None), (WHOLE, "batch"))
    assert names(findings) == ["batch", "batch"]
    assert [case.name for found in findings for case in found.cases] == ["batch", "batch"]


def test_another_piece_of_the_same_storage_is_something_else() -> None:
    assert names(two_reads((FRONT, "weight"), (BACK, None))) == ["weight", UNNAMED]


def test_each_case_is_renamed_but_once() -> None:
    analysis = Analysis(lambda storage, view: "batch" if view == WHOLE else None)
    analysis.alloc(0, 64, 0)
    analysis.op(0, "copy_", 0, [], [(0, WHOLE)])
    for index in (1, 2):
        analysis.op(index, "add", 1, [(0, FRONT)], [])
    for index in (3, 4):
        analysis.op(index, "mul", 2, [(0, WHOLE)], [])
    assert [dict(found.names) for found in analysis.findings.values()] == [{"batch": 2}, {"batch": 2}]
