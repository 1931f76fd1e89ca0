"""`hpz simulate --against FILE.csv`: simulated beside published, as tables, files and a scatter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from harness.cli.console import wide_console
from harness.system.whole_file import write_json, write_text_whole

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, int, int], None]
WORDS = 44  # of a text in a table


def show_against(file: Path, folder: Path, as_json: bool, progress: Progress) -> None:
    """Simulate every row, write the table, its summary and the figure to `folder`, and print them."""
    from harness.simulate.against import against, read_rows

    table = against(read_rows(file), lambda done, of: progress("rows simulated", done, of))
    summary = summarised(table, file)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(folder / "against.csv", table.to_csv(index=False))
    write_json(folder / "against.json", summary)
    _draw(table, folder)
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    console = wide_console(160)
    for part in (_rows(table), _refused(table), *_groups(summary)):
        if part.row_count:
            console.print(part)
    console.print(in_words(summary), highlight=False, soft_wrap=True)
    console.print(f"Every row with its assumptions: {folder}/against.csv", highlight=False, soft_wrap=True)


def summarised(table: pd.DataFrame, file: Path) -> dict[str, Any]:
    """Errors over all comparable rows and by card, network and framework, and every row."""
    from harness.simulate.against import GOALS, GROUPS, by, errors

    rows = json.loads(table.to_json(orient="records"))
    groups = {heading: dict(by(table, column)) for heading, column in GROUPS.items()}
    content = {
        "schema": 1,
        "evidence": "simulated-time",
        "file": file.name,
        "errors": errors(table),
        "goals": GOALS,
        "by": groups,
        "rows": rows,
    }
    return {key: _without_nan(value) for key, value in content.items()}


def _without_nan(value: Any) -> Any:
    """NaN is no JSON: null."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def in_words(summary: dict[str, Any]) -> str:
    """The errors before anything else, in one sentence each."""
    from harness.simulate.against import DETERMINED

    found = summary["errors"]
    if not found["rows"]:
        return "No row of this file is comparable; the table says why."
    known = found["determined"]
    return (
        f"{found['rows']} comparable rows: median absolute error {_percent(found['median'])}, mean "
        f"{_percent(found['mean'])} (goals {_percent(summary['goals']['median'])} and "
        f"{_percent(summary['goals']['mean'])}), rank correlation {_number(found['rank_correlation'])}. "
        f"{_percent(found['inside'])} of the measurements lie inside the range that the unknown settings leave; "
        f"the median distance from it is {_percent(found['median_outside'])}. Of the {known['rows']} rows whose "
        f"unknown settings leave less than a factor of {DETERMINED} the median error is {_percent(known['median'])}, "
        f"the mean {_percent(known['mean'])}. Evidence: simulated-time."
    )


def _draw(table: pd.DataFrame, folder: Path) -> None:
    from analysis.draw.against import against_figure

    if (figure := against_figure(table)) is not None:
        figure.write(folder)


def _rows(table: pd.DataFrame) -> Table:
    found = Table(title="simulated against published (simulated-time)", box=None)
    for heading in (
        "row",
        "model",
        "GPUs",
        "card",
        "sharding",
        "metric",
        "measured",
        "simulated",
        "range",
        "error",
    ):
        found.add_column(
            heading, justify="left" if heading in ("model", "card", "sharding", "metric") else "right"
        )
    found.add_column("assumed", max_width=WORDS, overflow="fold")
    for _, row in table[table["error"].notna()].iterrows():
        low, high = _number(row["low"]), _number(row["high"])
        found.add_row(
            str(row["row"] + 2),  # as an editor counts lines, the header being the first
            row["model"][:24],
            str(row["gpus"]),
            row["gpu_type"][:14],
            row["sharding"][:18],
            row["metric"][:22],
            _number(row["measured"]),
            _number(row["predicted"]),
            "" if low == high else f"{low} to {high}",
            f"{row['error']:+.0%}" + ("" if row["comparable"] else " ?"),
            row["assumed"],
        )
    return found


def _refused(table: pd.DataFrame) -> Table:
    found = Table(title="not compared", box=None)
    for heading in ("row", "model", "metric", "why"):
        found.add_column(heading, justify="right" if heading == "row" else "left")
    for _, row in table[~table["comparable"]].iterrows():
        found.add_row(str(row["row"] + 2), row["model"][:WORDS], row["metric"][:28], row["why_not"])
    return found


def _groups(summary: dict[str, Any]) -> list[Table]:
    tables = []
    for heading, groups in summary["by"].items():
        table = Table(title=f"errors by {heading}", box=None)
        for column in (heading, "rows", "median", "mean", "outside the range", "inside"):
            table.add_column(column, justify="left" if column == heading else "right")
        for name, found in groups.items():
            numbers = [_percent(found[key]) for key in ("median", "mean", "median_outside", "inside")]
            table.add_row(name[:WORDS], str(found["rows"]), *numbers)
        tables.append(table)
    return tables


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.0f} %"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"
