"""What a study's simulated time says, for summary.json and in one sentence: its results, and how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.judge.clock_tables import Clock, order_costs, reading_rows, window_counts
from analysis.judge.trust import caveat, percent, trust, validation_rows
from harness.simulate.records import EVIDENCE

Record = dict[str, Any]


def clock_record(clock: Clock | None) -> Record | None:
    """`simulated` of summary.json."""
    if clock is None:
        return None
    published, measured = validation_rows(clock.validation)
    return {
        "evidence": EVIDENCE,
        "run_ids": list(dict.fromkeys(clock.simulated.cells["run_id"])),
        "order_costs": {name: list(ends) for name, ends in order_costs(clock).items()},
        "windows": window_counts(clock),
        "readings": reading_rows(clock),
        "validation": {
            "caveat": caveat(clock.validation),
            "sentences": trust(clock.validation),
            "published": published,
            "measured": measured,
            "clock": clock.validation.about.get("clock", 1) if clock.validation else None,
            "made": clock.validation.about.get("made") if clock.validation else None,
            "not_validated": list(clock.validation.about["not_validated"]) if clock.validation else [],
        },
    }


def clock_sentence(record: Mapping[str, Any]) -> str:
    """The result in one sentence, from `simulated` of summary.json."""
    words = []
    if counts := record["windows"]:
        least, most = counts["strikes"], counts["strikes"] + counts["may_strike"]
        many = f"{least} to {most}" if most > least else str(most)
        words.append(f"the race strikes in {many} of {counts['settings']} settings at full size")
    costs = [f"{name} {percent(high, 1)}" for name, (_, high) in record["order_costs"].items()]
    words += [f"an ordering adds to a step at most: {', '.join(costs)}"] if costs else []
    return (
        f"In simulated time {'; '.join(words) or 'steps were computed'} ({record['validation']['caveat']})."
    )
