"""The fault table against the sources of DeepSpeed: each answer of the doctor is what the release's lines show."""

from __future__ import annotations

import pytest

from harness.diagnose import Setup, evidence, exposures
from harness.diagnose.evidence import EVIDENCE
from harness.diagnose.faults import named, table
from harness.diagnose.judges import TIMER_SWITCHES, TRACE_CHECK_FIRST
from harness.variants import precondition_note, supported_releases
from harness.variants.families import version_key
from tests.releases import pristine

BOUNDARIES = (
    *("0.10.0", "0.10.1", "0.10.2", "0.10.3", "0.13.1", "0.13.2", "0.13.4", "0.13.5"),
    *("0.14.2", "0.14.3", "0.15.3", "0.15.4", "0.18.2", "0.18.3", "0.19.4", "0.19.5", "0.19.8"),
)
"""Both sides of every boundary in the table; what lies between is read by `make releases`."""

NEITHER = ("safe by release", "safe by setting", "not applicable")
OF_ONE_FILE = (
    *("zero-3 default stream", "all-reduce fetch", "gradients not reduced", "one gradient at a time"),
    *("leaf module threads", "bucket reused", "bucket freed", "bucket index", "several producers"),
    *("accumulation with offload", "bf16 without ZeRO", "Muon with reduce-scatter"),
    *("quantised weights: bf16", "quantised weights: size", "second model", "MiCS", "MiCS: gone"),
)
"""Faults that one line shows; both sides of their windows are read, and every release by `make releases`."""

# A training that every fault meets, in the releases that have it: small sizes, and groups that span nodes.
WORST = {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 2}}


def edges(fault: str) -> list[tuple[str, bool]]:
    """The first and last release of each window, and those before and after it; with whether they have the fault."""
    known, found = supported_releases(), []
    for first, last in named(fault).windows:
        start, end = known.index(first), known.index(last or known[-1])
        near = {start - 1: False, start: True, end: True, end + 1: False}
        found += [(known[index], has) for index, has in near.items() if 0 <= index < len(known)]
    return found


def answers(release: str) -> dict[str, bool]:
    """Fault → whether the doctor calls `WORST` exposed, or cannot tell."""
    setup = Setup(release=release, config=WORST, world_size=6, ranks_per_node=3, numels=(1, 7, 1001))
    return {one.fault: one.exposed not in NEITHER for one in exposures(setup)}


def check(release: str) -> None:
    """What the doctor says of the release, and what its source shows."""
    source, said = pristine(release), answers(release)
    shown = {fault: shows(source) for fault, shows in EVIDENCE.items() if fault not in OF_ONE_FILE}
    shown["optimizer step"] = evidence.step(source)  # with the throughput timer on, and no accumulation
    assert {fault: said[fault] for fault in shown} == shown

    newer = version_key(release) >= version_key(TRACE_CHECK_FIRST)
    assert evidence.unordered_gathers(source) and evidence.step(source) is not newer
    assert evidence.timer_has_switches(source) == (version_key(release) >= version_key(TIMER_SWITCHES))
    assert bool(precondition_note(release)) == shown["stale secondary"]
    dirty = next(
        one for one in exposures(Setup(release=release, config=WORST)) if one.fault == "dirty after load"
    )
    assert ("GatheredParameters" in dirty.reason) == evidence.dirty_after_gathered(source)


@pytest.mark.parametrize("release", BOUNDARIES)
def test_the_table_says_what_the_source_shows(release: str) -> None:
    check(release)


@pytest.mark.every_release
@pytest.mark.parametrize("release", [one for one in supported_releases() if one not in BOUNDARIES])
def test_the_table_says_what_every_other_source_shows(release: str) -> None:
    check(release)


EDGES = [(fault, *edge) for fault in OF_ONE_FILE for edge in edges(fault)]


@pytest.mark.parametrize(("fault", "release", "has"), EDGES, ids=lambda value: str(value))
def test_a_window_ends_where_the_source_changes(fault: str, release: str, has: bool) -> None:
    assert EVIDENCE[fault](pristine(release)) is has


@pytest.mark.every_release
@pytest.mark.parametrize("release", supported_releases())
def test_every_release_is_in_the_windows_that_its_source_shows(release: str) -> None:
    source, setup = pristine(release), Setup(release=release, config={})
    found = {fault: EVIDENCE[fault](source) for fault in OF_ONE_FILE}
    assert found == {fault: named(fault).within(setup) for fault in OF_ONE_FILE}


def test_whatever_is_looked_for_is_in_the_table() -> None:
    assert EVIDENCE.keys() <= {fault.id for fault in table()}


def test_both_sides_of_every_window_are_sampled() -> None:
    known = supported_releases()
    windows = [window for fault in EVIDENCE if fault not in OF_ONE_FILE for window in named(fault).windows]
    firsts = {first for first, _ in windows} | {TIMER_SWITCHES, TRACE_CHECK_FIRST}
    lasts = {last for _, last in windows if last} | {
        known[known.index(one) - 1] for one in firsts - {known[0]}
    }
    assert firsts | lasts | {known[known.index(one) + 1] for one in lasts} <= set(BOUNDARIES)
