"""With which attention and optimizer the runs trained, in words, and where that differs from another study or a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.study.records import DEVICE_DEFAULTS

Record = Mapping[str, Any]


def loop_note(summary: Record) -> str:
    """`Trained with attention eager, …`; on the virtual device also what a GPU has where nothing is said."""
    with_what = summary["trained_with"]
    said = "; ".join(f"{name} {' or '.join(values)}" for name, values in with_what.items())
    if not said:
        return ""
    levels = {pair["device"] for pair in summary["pairs"]}
    usual = DEVICE_DEFAULTS["cuda"]
    if levels == {"virtual"} and any(with_what[name] != [value] for name, value in usual.items()):
        others = " and ".join(f"{name} {value}" for name, value in usual.items())
        return f"Trained with {said}, which the virtual device can order; on a GPU {others} are the default."
    return f"Trained with {said}."


def loops_differ(ours: Record, theirs: Record) -> str | None:
    """Where two studies did not train with the same, as a sentence; None where they did, or one did not say."""
    mine, others = ours["trained_with"], theirs.get("trained_with") or {}
    differing = [
        f"{name} {' or '.join(values)} here, {' or '.join(others[name])} there"
        for name, values in mine.items()
        if name in others and others[name] != values
    ]
    return f"The two did not train with the same: {'; '.join(differing)}." if differing else None
