"""Tables of the page as plain values: pairs, seeds and the two faults of stock; the templates lay them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.draw.settings import settings, shape_text
from analysis.draw.style import SIGNS
from analysis.judge.axes import axes_text
from analysis.judge.evidence import RANK
from analysis.page.answers import count_words
from analysis.page.grids import levels_of

Record = Mapping[str, Any]


NOT_RUN = "not run"


def pair_rows(summary: Record) -> list[dict[str, Any]]:
    """One line a pair with its numbers, for the long table and the Markdown report."""
    return [
        {
            "run": pair["run_id"],
            "model": pair["model"],
            "variant": pair["variant"],
            "shape": shape_text(pair["shape"]),
            "policy": pair["schedule"],
            "settings": setting,
            "seed": pair["seed"],
            "verdict": pair["verdict"],
            "sign": SIGNS[pair["verdict"]],
            "reason": pair["reason"],
            "first bad step": number(pair["first_bad_step"]),
            "skipped steps": number(pair["skipped_steps"]),
            "max |Δ loss|": number(pair["max_abs_loss_difference"]),
            "secondary gathers / step": number(pair["secondary_gathers_per_step"]),
            "host waits / step": number(pair["host_syncs_per_step"]),
            "to other nodes / step": size(pair["bytes_inter_per_step"]),
            "step time ratio": interval(pair["step_seconds_ratio"]),
            "evidence": pair["evidence"],
        }
        for pair, setting in zip(summary["pairs"], settings(summary["pairs"]), strict=True)
    ]


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def size(value: float | None) -> str:
    """Bytes, readable."""
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.4g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"


def interval(ratio: Record | None) -> str:
    if ratio is None:
        return "–"
    middle = ratio.get("median", ratio.get("estimate"))
    ends = "" if ratio["low"] is None else f" [{ratio['low']:.3g}, {ratio['high']:.3g}]"
    spread = f", IQR {ratio['spread']:.2g}" if "spread" in ratio else ""
    odd = f", {ratio['outliers']} stand out" if ratio.get("outliers") else ""
    narrow = ", too few blocks to use the interval" if ends and ratio.get("too_narrow") else ""
    return f"{middle:.3g}{ends}, n={ratio['n']}{spread}{odd}{narrow}"


def seed_rows(summary: Record) -> list[dict[str, Any]]:
    """Final-window loss differences of pairs run with several seeds."""
    return [
        {**group, "shape": _with_axes(group), "difference": interval(group["final_loss_difference"])}
        for group in summary["groups"]
        if len(group["seeds"]) > 1
    ]


def _with_axes(group: Record) -> str:
    return ", ".join(filter(None, (shape_text(group["shape"]), axes_text(group["axes"]))))


def faults(summary: Record) -> list[dict[str, str]]:
    """Why stock fails in two ways: each statement with what this study shows of it; empty where it shows neither."""
    found = [
        {
            "name": "The missing copy",
            "says": "The old copy leaves elements of the secondary tensor unwritten wherever the world size does not "
            "divide a parameter's size. No other stream is needed: it fails in program order, too.",
            "shown": _shown(summary, variants=("stock",), aligned=False, policies=("eager", "native")),
            "contrast": _shown(summary, variants=("stock",), aligned=True, policies=("eager", "native")),
            "test": "stock in program order, on unaligned sizes",
            "control": "the same on aligned sizes, where the old copy is right",
        },
        {
            "name": "The race",
            "says": "Nothing orders the all-gather after the copy that it reads. On aligned sizes the copy itself is "
            "right, so whatever goes wrong there is the order, and program order hides it.",
            "shown": _shown(summary, variants=("unordered", "stock"), aligned=True, policies=None),
            "contrast": _shown(summary, variants=("fixed", "event"), aligned=True, policies=None),
            "test": "stock and unordered on aligned sizes, out of program order",
            "control": "the same with the order restored (fixed, event)",
        },
    ]
    return found if any(fault["shown"] != NOT_RUN for fault in found) else []


def _shown(
    summary: Record, variants: tuple[str, ...], aligned: bool, policies: tuple[str, ...] | None
) -> str:
    pairs = [
        pair
        for pair in summary["pairs"]
        if pair["variant"] in variants
        and pair["model_aligned"] is aligned
        and pair["verdict"]
        and (pair["policy"] in policies if policies else pair["policy"] not in ("eager", "native"))
    ]
    if not pairs:
        return NOT_RUN
    counts = {verdict: sum(pair["verdict"] == verdict for pair in pairs) for verdict in list(RANK)[1:]}
    levels = ", ".join(levels_of(pairs))
    return f"{count_words({k: v for k, v in counts.items() if k}).lower()} of {len(pairs)} pairs ({levels})"
