"""How far simulated time can be trusted: what it was held against, in sentences with the errors first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.simulate.against import DETERMINED, GOALS, GROUPS, by, errors
from harness.simulate.validate import Validation

Record = dict[str, Any]
CARDS = ("V100", "A100", "A800", "H100", "H200", "B200")


def trust(validation: Validation | None) -> list[str]:
    """One sentence a comparison with measurements, errors first."""
    if validation is None:
        return ["Nothing here was held against a measurement."]
    calibration = validation.about.get("calibration", {})
    found = [*_table(validation.table), *_published(validation.published)]
    found += _measured(validation.measured, calibration)
    if not len(validation.measured):
        found.append(f"Not held against steps measured over slow links: {validation.about['measured']}.")
    return found


def _table(table: pd.DataFrame) -> list[str]:
    """The table of published measurements: all that are comparable, and those whose settings are nearly all known."""
    if not len(table):
        return []
    every = errors(table)
    known, goals = every["determined"], (GOALS["median"], GOALS["mean"])
    return [
        f"{every['rows']} published measurements of {_listed(table)}, nothing fitted to them: the median "
        f"absolute error is {_whole(every['median'])}, the mean {_whole(every['mean'])} (goals of "
        f"{_whole(goals[0])} and {_whole(goals[1])}: {_met(every, goals)}), the rank correlation "
        f"{every['rank_correlation']:.2f}. What the "
        "sources do not state was simulated in every way; the prediction is the middle of that range.",
        f"Of these, {known['rows']} leave less than a factor of {DETERMINED} open: median {_whole(known['median'])}, "
        f"mean {_whole(known['mean'])}.",
    ]


def _met(found: Mapping[str, float], goals: tuple[float, float]) -> str:
    met = [found["median"] <= goals[0], found["mean"] <= goals[1]]
    return "met" if all(met) else "not met" if not any(met) else "met by one of the two"


def _listed(table: pd.DataFrame) -> str:
    """The cards of the comparable rows."""
    texts = table.loc[table["comparable"], "gpu_type"]
    return ", ".join(card for card in CARDS if texts.str.contains(card).any())


def _whole(share: float) -> str:
    return f"{100 * share:.0f} %"


def group_rows(table: pd.DataFrame) -> list[Record]:
    """Errors by card, network and framework, for the page."""
    if not len(table):
        return []
    return [
        {"of": heading, "name": name, **found}
        for heading, column in GROUPS.items()
        for name, found in by(table, column)
    ]


def _published(table: pd.DataFrame) -> list[str]:
    found = []
    for name, part in table.groupby("id", sort=False) if len(table) else ():
        first, speedups = part.iloc[0], part["simulated_speedup"]
        if first["comparable"]:
            fast = 1 + part["baseline_error"].dropna(), 1 + part["error"].dropna()
            low, high = min(each.min() for each in fast), max(each.max() for each in fast)
            found.append(
                f"{name} ({first['statement']}; unknown: {first['unknown']}): over the networks that it may have had, "
                f"simulated steps are {low:.1f} to {high:.1f} times as fast as the measured ones. hpZ's "
                f"speed-up over ZeRO-3 was {first['measured_speedup']:.2f}; simulated "
                f"{speedups.min():.2f} to {speedups.max():.2f} ({span(part['speedup_error'])})."
            )
        else:
            kept = "within" if speedups.max() <= first["measured_speedup_high"] else "beyond"
            found.append(
                f"{name} ({first['statement']}): only a bound, as this simulates hpZ alone. "
                f"Simulated {speedups.max():.2f}, {kept} it."
            )
    return found


def _measured(table: pd.DataFrame, calibration: Mapping[str, Any]) -> list[str]:
    if not len(table):
        return []
    ratios = table[table["variant"] != "zero3"]["speedup_error"].dropna()
    off = table.assign(off=table["error"].abs()).groupby(["link_bits_per_second", "link"])["off"].median()
    each = ", ".join(f"{100 * row['off']:.0f} % at {row['link']}" for row in records(off.reset_index()))
    words = (
        f"{len(table)} runs of this laboratory over real slow links (evidence "
        f"{', '.join(sorted(set(table['measured_evidence'])))}): step times are off by {each} in the median "
        f"({span(table['error'])} in all)"
    )
    if len(ratios):
        words += f"; hpZ's speed-up over ZeRO-3 by {100 * ratios.abs().median():.0f} % ({span(ratios)})"
    held_out = calibration.get("errors", {}).get("steps", {}).get("held_out")
    if held_out is not None:
        words += (
            f". Of the machine that ran them, a step without a network is known to {100 * held_out:.0f} %"
        )
    return [words + "."]


def span(errors: pd.Series) -> str:
    """`−26 % to +3 %`."""
    return " to ".join(percent(value) for value in dict.fromkeys((errors.min(), errors.max())))


def percent(value: float, digits: int = 0) -> str:
    """A relative difference with its sign; zero has none."""
    text = f"{100 * value:+.{digits}f} %"
    return text.lstrip("+-") if not float(text[:-2]) else text.replace("-", "−")


def caveat(validation: Validation | None) -> str:
    """The errors in a few words, to stand beside every number."""
    if validation is not None and len(validation.table):
        found = errors(validation.table)
        return (
            f"against {found['rows']} published measurements, step times off by {_whole(found['median'])} in the "
            f"median and {_whole(found['mean'])} in the mean"
        )
    table = validation.published if validation else pd.DataFrame()
    known = table[table["comparable"]] if len(table) else table
    if not len(known):
        return "not held against any measurement"
    speeds = 1 + pd.concat([known["baseline_error"], known["error"]]).dropna()
    return (
        f"against {known['id'].iloc[0]}, speed-ups off by {span(known['speedup_error'])}, "
        f"steps {speeds.min():.1f} to {speeds.max():.1f} times too fast"
    )


def validation_rows(validation: Validation | None) -> tuple[list[Record], list[Record]]:
    """Published and measured comparisons, one record a row; missing values are None."""
    if validation is None:
        return [], []
    return records(validation.published), records(validation.measured)


def records(table: pd.DataFrame) -> list[Record]:
    """Rows without NaN."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]
