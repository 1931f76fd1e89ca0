"""What a study's simulated time says, for the page, summary.json and text: how far to trust it, then what it found.

It comes from the `simulated/` folder that `hpz simulate` writes; a study without one shows nothing of this.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.simulate.plan import Settings
from harness.simulate.records import EVIDENCE, SAME_CLUSTER, SAME_TRAINING, Simulated
from harness.simulate.tables import (
    CLAIMED,
    READINGS,
    hpz_sizes,
    ninety_eight,
    read,
    scaling,
    sync_cost,
    windows,
)
from harness.simulate.validate import Validation, read_validation

Record = dict[str, Any]
FOLDER, STEP = "simulated", "step.json.gz"
ORDERED = ("event", "fixed", "device-sync")
LARGEST_INLINE = 300_000  # bytes of a step that the page carries itself
TOYS = "toy"  # in the names of models that are not full size


@dataclass(frozen=True, eq=False)
class Clock:
    """A study's simulated time and what it was held against; `folder` is its `simulated/`."""

    folder: Path
    simulated: Simulated
    validation: Validation | None

    @property
    def tables(self) -> set[str]:
        return set(self.simulated.cells["table"])


def load_clock(folder: Path, study: str) -> Clock | None:
    """The simulated time of a results folder; None where there is none."""
    place = folder / FOLDER
    if not (place / "cells.csv").is_file():
        return None
    return Clock(place, read(place, study), read_validation(place))


# ---- how far to trust it


def trust(clock: Clock) -> list[str]:
    """One sentence a comparison with measurements, errors first."""
    if clock.validation is None:
        return ["Nothing here was held against a measurement."]
    calibration = clock.validation.about.get("calibration", {})
    found = [*_published(clock.validation.published), *_measured(clock.validation.measured, calibration)]
    if not len(clock.validation.measured):
        found.append(
            f"Not held against steps measured over slow links: {clock.validation.about['measured']}."
        )
    return found


def _published(table: pd.DataFrame) -> list[str]:
    found = []
    for name, part in table.groupby("id", sort=False) if len(table) else ():
        first, speedups = part.iloc[0], part["simulated_speedup"]
        if first["comparable"]:
            fast = 1 + part["baseline_error"].dropna(), 1 + part["error"].dropna()
            low, high = min(each.min() for each in fast), max(each.max() for each in fast)
            found.append(
                f"{name} ({first['statement']}; unknown: {first['unknown']}): over the networks that it may have had, "
                f"simulated steps are {low:.1f} to {high:.1f} times as fast as the measured ones, so absolute step "
                f"times are too short. hpZ's speed-up over ZeRO-3 was {first['measured_speedup']:.2f}; simulated "
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


def caveat(clock: Clock) -> str:
    """The errors in a few words, to stand beside every number."""
    table = clock.validation.published if clock.validation else pd.DataFrame()
    known = table[table["comparable"]] if len(table) else table
    if not len(known):
        return "not held against any measurement"
    speeds = 1 + pd.concat([known["baseline_error"], known["error"]]).dropna()
    return (
        f"against {known['id'].iloc[0]}, speed-ups off by {span(known['speedup_error'])}, "
        f"steps {speeds.min():.1f} to {speeds.max():.1f} times too fast"
    )


def validation_rows(clock: Clock) -> tuple[list[Record], list[Record]]:
    """Published and measured comparisons, one record a row; missing values are None."""
    if clock.validation is None:
        return [], []
    return records(clock.validation.published), records(clock.validation.measured)


def records(table: pd.DataFrame) -> list[Record]:
    """Rows without NaN."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


# ---- what it found


def case(row: Mapping[Any, Any]) -> str:
    """A training setting and how many GPUs have it, in few words; the host where it is not the usual one."""
    gpus = row["nodes"] * row["ranks_per_node"]
    words = f"{row['model']}, {gpus:,} GPUs, batch {row['micro_batch']} × {row['sequence_length']}"
    more = row["gradient_accumulation"]
    words += f", {more} micro-batches" if more > 1 else ""
    return words + (f", {row['host']}" if row["host"] != Settings().host else "")


def order_rows(clock: Clock) -> list[Record]:
    """One row a setting and network: seconds of ZeRO-3 and unordered hpZ, and what each ordering adds to it."""
    if "sync_cost" not in clock.tables:
        return []
    keys = [*SAME_TRAINING, *SAME_CLUSTER]
    found = []
    for _, part in sync_cost(clock.simulated).groupby(keys, sort=False):
        by = {row["variant"]: row for row in part.to_dict("records")}
        first, seconds = next(iter(by.values())), {name: row["step_seconds"] for name, row in by.items()}
        fixed, device = by.get("fixed", {}), by.get("device-sync", {})
        found.append(
            {
                "case": case(first),
                "network": first["network"],
                "zero3": seconds.get("zero3"),
                "unordered": seconds.get("unordered"),
                **{name: by[name]["cost_of_order"] if name in by else None for name in ORDERED},
                "speedup": fixed.get("speedup_over_zero3"),
                "bytes_bound": fixed.get("bytes_bound"),
                "blocked": fixed.get("blocked_at_copy_seconds"),
                "lost": device.get("lost_overlap_seconds"),
                "run_ids": [row["run_id"] for row in by.values()],
            }
        )
    return found


def order_costs(clock: Clock) -> dict[str, tuple[float, float]]:
    """Ordering → (least, largest) share that it adds to a step of unordered hpZ."""
    if "sync_cost" not in clock.tables:
        return {}
    table = sync_cost(clock.simulated).dropna(subset=["cost_of_order"])
    return {
        name: (float(part.min()), float(part.max()))
        for name in ORDERED
        if len(part := table[table["variant"] == name]["cost_of_order"])
    }


def window_counts(clock: Clock) -> Record | None:
    """How many settings (training × network) there are, and in how many the race strikes, is close, or is hidden."""
    if "windows" not in clock.tables:
        return None
    table = windows(clock.simulated)
    table = table[table["parameters_gathered"] > 0]
    full = table[~table["model"].str.contains(TOYS)]
    small = table[table["model"].str.contains(TOYS)]
    return {
        "settings": len(full),
        **{name: int((full["verdict"] == name).sum()) for name in ("strikes", "close", "hidden")},
        "by_code": _strikes(full.assign(code=full["variant"] + " of DeepSpeed " + full["release"]), "code"),
        "by_network": _strikes(full, "network"),
        "small_settings": len(small),
        "small_strikes": int((small["verdict"] == "strikes").sum()),
        "run_ids": list(dict.fromkeys(table["run_id"])),
    }


def _strikes(table: pd.DataFrame, column: str) -> dict[str, list[int]]:
    """Value of the column → [settings in which the race strikes, settings]."""
    return {
        str(name): [int((part["verdict"] == "strikes").sum()), len(part)]
        for name, part in table.groupby(column, sort=False)
    }


def reading_rows(clock: Clock) -> list[Record]:
    """Both readings of "98 %", each with its range over all settings and the setting at its best and worst."""
    if "sync_cost" not in clock.tables:
        return []
    every = pd.DataFrame(ninety_eight(sync_cost(clock.simulated)))
    return [_reading(str(name), part) for name, part in every.groupby("reading")] if len(every) else []


def _reading(name: str, part: pd.DataFrame) -> Record:
    ordered = part.sort_values("simulated").to_dict("records")
    worst, best = ordered[0], ordered[-1]
    return {
        "reading": name,
        "says": READINGS[name],
        "claimed": CLAIMED[name],
        "low": float(worst["simulated"]),
        "high": float(best["simulated"]),
        "least_at": f"{case(worst)}, {worst['network']}",
        "most_at": f"{case(best)}, {best['network']}",
        "bytes_allow": None if name != "R1" else float(part["bytes_bound"].max()),
        "settings": len(part),
        "reached": int((part["judgement"] == "reached").sum()),
        "impossible": int((part["judgement"] == "impossible by bytes").sum()),
        "run_ids": list(dict.fromkeys(run_id for ids in part["run_ids"] for run_id in ids)),
    }


def size_rows(clock: Clock) -> list[Record]:
    """Secondary groups of each size against ZeRO-3, by network."""
    if "hpz_sizes" not in clock.tables:
        return []
    rows = records(hpz_sizes(clock.simulated))
    return [row | {"case": case(row)} for row in rows if row["hpz"] > 1]


def scaling_rows(clock: Clock) -> list[Record]:
    """Every world size: step time, bytes of a step, efficiency, and what limits."""
    if "scaling" not in clock.tables:
        return []
    return [row | {"case": case(row)} for row in records(scaling(clock.simulated))]


# ---- for summary.json, the first screen and the page


def clock_record(clock: Clock | None) -> Record | None:
    """`simulated` of summary.json."""
    if clock is None:
        return None
    published, measured = validation_rows(clock)
    return {
        "evidence": EVIDENCE,
        "run_ids": list(dict.fromkeys(clock.simulated.cells["run_id"])),
        "order_costs": {name: list(ends) for name, ends in order_costs(clock).items()},
        "windows": window_counts(clock),
        "readings": reading_rows(clock),
        "validation": {
            "caveat": caveat(clock),
            "sentences": trust(clock),
            "published": published,
            "measured": measured,
            "not_validated": list(clock.validation.about["not_validated"]) if clock.validation else [],
        },
    }


def clock_sentence(record: Mapping[str, Any]) -> str:
    """The result in one sentence, from `simulated` of summary.json."""
    words = []
    if counts := record["windows"]:
        words.append(f"the race strikes in {counts['strikes']} of {counts['settings']} settings at full size")
    costs = [f"{name} {percent(high, 1)}" for name, (_, high) in record["order_costs"].items()]
    words += [f"an ordering adds to a step at most: {', '.join(costs)}"] if costs else []
    return (
        f"In simulated time {'; '.join(words) or 'steps were computed'} ({record['validation']['caveat']})."
    )


@dataclass(frozen=True)
class Section:
    """What the page's section shows, beside its figures."""

    record: Record
    published: list[Record]
    measured: list[Record]
    orders: list[Record]  # on the study's first network
    all_orders: list[Record]
    scaling: list[Record]
    sizes: list[Record]
    step: str | None  # a recorded step for Perfetto, as an address
    files: list[str]


def section(clock: Clock | None) -> Section | None:
    """None where there is nothing to show."""
    record = clock_record(clock)
    if clock is None or record is None:
        return None
    orders = order_rows(clock)
    published, measured = validation_rows(clock)
    return Section(
        record=record,
        published=published,
        measured=measured,
        orders=[row for row in orders if row["network"] == orders[0]["network"]],
        all_orders=orders,
        scaling=scaling_rows(clock),
        sizes=size_rows(clock),
        step=_step(clock.folder),
        files=sorted(file.name for file in clock.folder.glob("*.csv")),
    )


def _step(folder: Path) -> str | None:
    """Inside the page where it is small, else beside it."""
    file = folder / STEP
    if not file.is_file():
        return None
    if file.stat().st_size > LARGEST_INLINE:
        return f"{FOLDER}/{STEP}"
    return "data:application/gzip;base64," + base64.b64encode(file.read_bytes()).decode()
