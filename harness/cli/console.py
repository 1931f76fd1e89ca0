"""The terminal as tables of runs need it."""

from __future__ import annotations

from rich.console import Console


def wide_console(least: int = 120) -> Console:
    """For tables of runs: names are for copying, so they are not folded, not even into a pipe."""
    return Console(width=max(Console().width, least))
