"""What a simulated study leaves: its settings' measures, and the words that name a setting."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

SAME_TRAINING = (
    *("model", "nodes", "ranks_per_node", "micro_batch", "sequence_length", "gradient_accumulation"),
    *("activation_checkpointing", "prefetch_bucket", "max_live_parameters", "release"),
)


SAME_CLUSTER = ("gpu", "network", "host")
EVIDENCE = "simulated-time"
MARGIN_COLUMNS = ("run_id", *SAME_TRAINING, *SAME_CLUSTER, "evidence", "parameter", "margin_us")


@dataclass(frozen=True, eq=False)
class Simulated:
    """What `simulate_study` computed."""

    study: str
    cells: pd.DataFrame  # one row a cell
    margins: pd.DataFrame  # one row a cell of `windows` and parameter

    def table(self, name: str) -> pd.DataFrame:
        """The cells of one table. Columns: see `cell_record`."""
        return self.cells[self.cells["table"] == name].reset_index(drop=True)
