"""What docs say of faults and of triage is what the table and the curves say."""

from __future__ import annotations

from harness.diagnose.faults import table
from harness.diagnose.pages import all_pages, page
from harness.system.places import REPOSITORY
from tests.curves.confusion import figures, judged, tables

DOCS = REPOSITORY / "docs"


def test_the_page_of_faults_is_the_table() -> None:
    assert (DOCS / "reference" / "faults.md").read_text() == all_pages(), "hpz doctor --explain all writes it"


def test_every_fault_has_a_page_with_its_way_out() -> None:
    assert all(fault.source in page(fault) and "- Way out today: " in page(fault) for fault in table())


def test_the_figures_of_triage_are_what_the_set_gives() -> None:
    assert tables() in (DOCS / "explanation" / "triage.md").read_text(), "python -m tests.curves.confusion"


def test_triage_is_good_enough() -> None:
    found = figures(judged())
    alarms, healthy = found["false alarms"]
    right, faulty = found["right kind first"]
    assert healthy >= 60 and faulty >= 60
    assert alarms <= 0.02 * healthy and right >= 0.85 * faulty
