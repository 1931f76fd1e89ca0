"""Throughput for the page and the text: one row a group of seeds, and the hours that were spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.draw.settings import shape_text
from analysis.draw.speed import per_rank
from analysis.judge.speed import SPLIT, settings_apart
from analysis.page.tables import number, size

Record = Mapping[str, Any]


def throughput_rows(summary: Record) -> list[dict[str, str]]:
    """The table of the page by column: groups of runs that differ in the seed alone; rates of a rank, or of a GPU."""
    groups = (summary["throughput"] or {"groups": []})["groups"]
    one = " / ".join(dict.fromkeys(per_rank(group["device"], group["evidence"]) for group in groups))
    rows = [_row(group, words) for group, words in zip(groups, settings_apart(groups), strict=True)]
    return [{name.replace("a rank", f"a {one}"): text for name, text in row.items()} for row in rows]


def shown(rows: list[dict[str, str]]) -> list[str]:
    """The columns in which anything stands."""
    return [name for name in (rows[0] if rows else ()) if any(row[name] not in ("", "–") for row in rows)]


def _row(group: Record, words: str) -> dict[str, str]:
    split, memory = group["split"] or dict.fromkeys(SPLIT), group["memory"] or {}
    again = group["hardware_tflops_per_rank"] > group["model_tflops_per_rank"]
    passes = [split[name] for name in SPLIT[:3]]
    return {
        "model": group["model"],
        "variant": group["variant"],
        "shape": shape_text(group["shape"]),
        "settings": words,
        "seeds": str(len(group["seeds"])),
        "tokens/s": _count(group["tokens_per_second"]),
        "tokens/s a rank": _rate(group),
        "model TFLOP/s a rank": number(group["model_tflops_per_rank"]),
        "with recompute": number(group["hardware_tflops_per_rank"]) if again else "–",
        "MFU": _share(group["mfu"]),
        "HFU": _share(group["hfu"]) if again else "–",
        "step": seconds(group["step_seconds"]),
        "forward / backward / optimizer": "–"
        if all(one is None for one in passes)
        else " / ".join(map(seconds, passes)),
        "exposed comm.": seconds(split["exposed_comm_seconds"]),
        "allocated": size(memory.get("allocated")),
        "reserved": size(memory.get("reserved")),
        "held-out loss": number(group["validation_loss"]),
        "hours": number(group["rank_hours"]),
        "evidence": group["evidence"],
        "runs": ", ".join(run_id.rsplit("_", 1)[-1] for run_id in group["run_ids"]),
        "patches": ", ".join(digest[:8] for digest in group["patch_sha256"].values()) or "–",
    }


def _rate(group: Record) -> str:
    rate = group["tokens_per_second_per_rank"]
    ends = "" if rate["low"] is None else f" [{_count(rate['low'])}, {_count(rate['high'])}]"
    return f"{_count(rate['estimate'])}{ends}, n={rate['n']} {group['interval_over']}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def seconds(value: float | None) -> str:
    """`12.3 ms`, `1.2 s`."""
    if value is None:
        return "–"
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def hours_sentences(summary: Record) -> list[str]:
    """What the runs took and what had been planned for them, one sentence a level; and why there is no MFU."""
    record = summary["throughput"]
    if record is None:
        return []
    sentences = []
    for row in record["hours"]:
        unit = "GPU-hours" if per_rank("cuda", row["evidence"]) == "GPU" else "hours of ranks"
        planned = ""
        if row["gpu_hours_planned"] is not None:
            planned = (
                f"; planned were {number(row['gpu_hours_planned'])}, at an MFU of {record['mfu_planned']:.0%}"
            )
        sentences.append(
            f"{number(row['rank_hours'])} {unit} in the recorded steps of {row['runs']} runs "
            f"({row['evidence']}){planned}."
        )
    peaks = {
        f"{group['peak']['tflops']:g} TFLOP/s ({group['peak']['card']}, {group['peak']['dtype']})"
        for group in record["groups"]
        if group["peak"]
    }
    if peaks:
        sentences.append(f"Peak: {'; '.join(sorted(peaks))}.")
    sentences += [f"No MFU: {why}." for why in sorted({g["why_no_mfu"] for g in record["groups"]} - {None})]
    return sentences
