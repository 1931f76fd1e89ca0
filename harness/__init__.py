"""hpZ Lab: a study goes in, evidence comes out. `load_study` and `load_results` are for notebooks."""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"
__all__ = ["load_results", "load_study"]


def __getattr__(name: str) -> Any:
    # Imported on use, so that `import harness` stays instant on a login node.
    if name == "load_study":
        from harness.study import load_study

        return load_study
    if name == "load_results":
        from analysis.collect.results import load_results

        return load_results
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
