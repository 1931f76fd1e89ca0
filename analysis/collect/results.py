"""Results for notebooks: `load_results("results/laptop")` gives two pandas frames and says what each column is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True, eq=False)
class Results:
    """What a study recorded so far.

    `runs` has one row a run and `steps` one row a run and step; `columns` lists what every column of both is, with
    its unit.
    """

    runs: pd.DataFrame
    steps: pd.DataFrame
    columns: pd.DataFrame

    def joined(self) -> pd.DataFrame:
        """Every step with its run's model, variant, policy, seed and evidence: tidy, one observation a row."""
        names = ["run_id", "model", "variant", "policy", "seed", "evidence"]
        return self.steps.astype({"run_id": "object"}).merge(self.runs[names], on="run_id", how="left")


def load_results(folder: str | Path) -> Results:
    """Collect a results folder and load it. Raises HarnessError where there is nothing to load."""
    from analysis.collect.collect import collect
    from analysis.collect.tables import RUN_COLUMNS, STEP_COLUMNS

    runs, steps = collect(folder)
    rows = [("runs", name, text) for name, (_, text) in RUN_COLUMNS.items()]
    rows += [("steps", "run_id", RUN_COLUMNS["run_id"][1])]
    rows += [("steps", name, text) for name, (_, text) in STEP_COLUMNS.items()]
    return Results(runs, steps, pd.DataFrame(rows, columns=["table", "column", "is"]))
