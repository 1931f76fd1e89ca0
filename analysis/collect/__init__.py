"""From run directories to the two tables that everything later reads; nothing here judges.

`collect_study` brings a results folder's tables up to date; `load_results` is for notebooks.
"""

from analysis.collect.collect import Collected, collect_study
from analysis.collect.results import load_results

__all__ = ["Collected", "collect_study", "load_results"]
