"""What a run leaves behind: the run directory, where the run comes from, and its mirror at Weights & Biases."""

from harness.record.directory import OPEN, Exit, Final, RunDirectory, Status, StepRecord, StepWriter

__all__ = [
    "OPEN",
    "Exit",
    "Final",
    "RunDirectory",
    "Status",
    "StepRecord",
    "StepWriter",
]
