"""Finds accesses to memory that nothing orders in a program on the virtual device, and schedules that make them matter.

`Ranks` runs a `Program`; `investigate` makes a `Report` of it, `race_study` a `Matrix` of a whole study. Nothing here
needs torch but the ranks themselves (`rank`, `server`, `adapt`, `names`, `policy`, `watch`).
"""

from harness.race.investigate import Settings, investigate
from harness.race.job import Job, Program
from harness.race.launch import Ranks
from harness.race.matrix import Matrix
from harness.race.report import Report
from harness.race.survey import race_study

__all__ = ["Job", "Matrix", "Program", "Ranks", "Report", "Settings", "investigate", "race_study"]
