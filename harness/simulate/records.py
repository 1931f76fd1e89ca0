"""What a simulated study leaves: its settings' measures, and the words that name a setting."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pandas as pd

SAME_TRAINING = (
    *("model", "nodes", "ranks_per_node", "micro_batch", "sequence_length", "gradient_accumulation"),
    *("activation_checkpointing", "prefetch_bucket", "max_live_parameters", "release"),
)


SAME_CLUSTER = ("gpu", "network", "host")
EVIDENCE = "simulated-time"
CLOCK = 2  # raised where the cost model changes what steps take; 1: no shapes of products, no corners
CORNER_COLUMNS = (
    *("table", "run_id", *SAME_CLUSTER, "corner"),
    *("step_seconds", "exposed_seconds", "margin_min_us", "overtaken", "evidence"),
)
MARGIN_COLUMNS = ("run_id", *SAME_TRAINING, *SAME_CLUSTER, "evidence", "parameter", "margin_us")


RATES = {"samples_per_second", "tokens_per_second", "tflops_per_gpu"}


@dataclass(frozen=True, eq=False)
class Simulated:
    """What `simulate_study` computed, as the profiles state the cluster and at the corners of what is known of it."""

    study: str
    cells: pd.DataFrame  # one row a cell
    margins: pd.DataFrame  # one row a cell of `windows` and parameter
    corners: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CORNER_COLUMNS))
    """One row a cell and corner: what differs there."""

    def table(self, name: str) -> pd.DataFrame:
        """The cells of one table. Columns: see `cell_record`."""
        return self.cells[self.cells["table"] == name].reset_index(drop=True)

    def at(self, corner: str) -> Simulated:
        """The same cells as they are at a corner."""
        keys = ["table", "run_id", *SAME_CLUSTER]
        moved = self.corners[self.corners["corner"] == corner].drop(columns=["corner", "evidence"])
        before = self.cells.rename(columns={name: f"{name} as stated" for name in moved if name not in keys})
        cells = before.merge(moved, on=keys, how="left")
        for rate in RATES & {*cells}:
            cells[rate] *= cells["step_seconds as stated"] / cells["step_seconds"]
        return replace(self, cells=cells)
