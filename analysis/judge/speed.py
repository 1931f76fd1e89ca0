"""Throughput as the field states it: tokens/s, TFLOP/s and MFU a rank, memory, the split of a step and GPU-hours.

Of each run, and of runs that differ in the seed alone together. Where time is time, that is: not on the virtual device,
not under a stall, not where a witness watched. A rank is a GPU, except where virtual nodes share one: there is no MFU.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from analysis.judge.axes import axis_words, further_axes
from analysis.judge.band import Floats
from analysis.judge.convergence import bootstrap_median
from analysis.judge.pairs import Matched, Recorded
from analysis.judge.throughput import steady_blocks
from harness.budget import (
    CONVENTION,
    hardware_flops_per_token,
    model_flops_per_token,
    model_of,
    planned_gpu_hours,
    rank_hours,
)
from harness.hardware import Card, card_called, find_card
from harness.study import Rule, Run, Study

Record = dict[str, Any]
MEASURED = ("multi-node", "one-gpu", "cpu")
SPLIT = ("forward_seconds", "backward_seconds", "optimizer_seconds", "exposed_comm_seconds")
SEEDS_FOR_INTERVAL = 3  # with fewer, the interval is that of the blocks of steps of these runs
GROUP = (
    "model",
    "variant",
    "release",
    "device",
    "link",
    "gradient_accumulation",
    "throughput_timer",
    "steps",
    "axes",
    "card",
    "evidence",
)


def throughput_record(
    matched: Matched, pairs: Iterable[Mapping[str, Any]], watched: Collection[str] = ()
) -> Record | None:
    """`throughput` of a summary; None where no finished run was measured at a level at which time is time."""
    verdicts = {pair["run_id"]: pair["verdict"] for pair in pairs}
    study, found = matched.study, []
    for recorded in {one.run_id: one for one in matched.of.values()}.values():
        run = recorded.run
        if recorded.unfit or run.evidence not in MEASURED or run.stall_us or recorded.run_id in watched:
            continue
        blocks = block_rates(recorded, study.rule)
        if blocks.size:
            verdict = verdicts.get(recorded.run_id, "baseline")
            found.append((_run_record(recorded, study, blocks) | {"verdict": verdict}, blocks))
    if not found:
        return None
    runs = [record for record, _ in found]
    return {
        "convention": CONVENTION,
        "mfu_planned": study.plan.mfu,
        "runs": runs,
        "groups": _groups(found, study.rule),
        "hours": _hours(runs),
    }


def block_rates(recorded: Recorded, rule: Rule) -> Floats:
    """Tokens/s of one rank, shape (blocks,): tokens of a step over the median seconds of each block of steady steps."""
    columns = recorded.columns
    blocks = steady_blocks(np.asarray(columns["step_seconds"], dtype=float), rule)
    seconds = np.array([np.median(block) for block in blocks])
    tokens = float(np.median(columns["tokens"])) if seconds.size else 0.0
    return tokens / recorded.run.shape.world_size / seconds


def _run_record(recorded: Recorded, study: Study, blocks: Floats) -> Record:
    run, rule = recorded.run, study.rule
    rate = bootstrap_median(blocks, rule.confidence)
    seconds = np.asarray(recorded.columns["step_seconds"], dtype=float)
    name, card, why_not = card_of(recorded, study)
    return {
        "run_id": recorded.run_id,
        **{key: getattr(run, key) for key in ("model", "variant", "release", "device", "link", "seed")},
        "shape": run.shape.model_dump(mode="json"),
        "gradient_accumulation": run.training.gradient_accumulation,
        "throughput_timer": run.training.throughput_timer,
        "axes": further_axes(study, run),
        "card": recorded.card,
        "steps": len(seconds),
        "step_seconds": float(np.median(seconds[rule.warmup_steps_dropped :])),
        "tokens_per_second": rate.estimate * run.shape.world_size,
        "tokens_per_second_per_rank": asdict(rate),
        **_flops(run, rate.estimate, card, name, why_not),
        "split": _split(recorded, rule),
        "memory": _memory(recorded),
        "validation_loss": _last(recorded.columns["validation_loss"]),
        "rank_hours": rank_hours(seconds.tolist(), run.shape.world_size),
        "gpu_hours_planned": planned_gpu_hours(run, card, study.plan.mfu) if card else None,
        "evidence": run.evidence,
        "patch_sha256": dict(run.patches),
    }


def card_of(recorded: Recorded, study: Study) -> tuple[str | None, Card | None, str | None]:
    """Profile name and card that a run's FLOP/s are held against, or why they are held against none."""
    run, named = recorded.run, recorded.card
    if run.device != "cuda":
        return None, None, f"device {run.device} has no peak to hold it against"
    if run.virtual_nodes:
        return None, None, "ranks of virtual nodes may share a card"
    if found := card_called(named):
        return *found, None
    if named is not None:
        return None, None, f"the peak of {named!r} is not known (harness/hardware/cards.yaml)"
    if study.gpu is not None:
        return study.gpu, find_card(study.gpu), None
    return None, None, "neither run nor study names the card"


def _flops(run: Run, rate: float, card: Card | None, name: str | None, why_not: str | None) -> Record:
    model, training = model_of(run), run.training
    needed = rate * model_flops_per_token(model, training.sequence_length)
    done = rate * hardware_flops_per_token(model, training)
    peak = card.peak_flops(training.dtype) if card else None
    return {
        "model_tflops_per_rank": needed / 1e12,
        "hardware_tflops_per_rank": done / 1e12,
        "mfu": needed / peak if peak else None,
        "hfu": done / peak if peak else None,
        "peak": {"card": name, "tflops": peak / 1e12, "dtype": training.dtype} if peak else None,
        "why_no_mfu": why_not,
    }


def _split(recorded: Recorded, rule: Rule) -> Record | None:
    """Median seconds of each part of a steady step; exposed communication lies inside the passes."""
    parts = {name: _median(recorded.steady(name, rule.warmup_steps_dropped)) for name in SPLIT}
    return parts if any(value is not None for value in parts.values()) else None


def _memory(recorded: Recorded) -> Record | None:
    """Peak bytes: the most of any rank where the final record has them all, else of rank 0's steps."""
    final = json.loads(recorded.row["status"] or "{}").get("final") or {}
    kinds = ("allocated", "reserved")
    ranks: dict[str, list[int] | None] = {kind: final.get(f"memory_{kind}") for kind in kinds}
    most = {
        kind: max(values) if (values := ranks[kind]) else _most(recorded.columns[f"memory_{kind}"])
        for kind in kinds
    }
    if all(value is None for value in most.values()):
        return None
    return {**most, "ranks": {kind: ranks[kind] for kind in kinds}}


def _groups(found: list[tuple[Record, Floats]], rule: Rule) -> list[Record]:
    """Runs that differ in the seed alone; one that diverged trains on nothing, and does not count."""
    groups: dict[str, list[tuple[Record, Floats]]] = {}
    for record, blocks in found:
        if record["verdict"] != "diverged":
            key = json.dumps([record["shape"], *(record[name] for name in GROUP)], default=str)
            groups.setdefault(key, []).append((record, blocks))
    return [_group(members, rule) for members in groups.values()]


def _group(members: list[tuple[Record, Floats]], rule: Rule) -> Record:
    records = [record for record, _ in members]
    first, of_seeds = records[0], len(records) >= SEEDS_FOR_INTERVAL
    rates = np.array([record["tokens_per_second_per_rank"]["estimate"] for record in records])
    rate = bootstrap_median(
        rates if of_seeds else np.concatenate([blocks for _, blocks in members]), rule.confidence
    )
    per_token = {
        name: first[name] / first["tokens_per_second_per_rank"]["estimate"] if first[name] else None
        for name in ("model_tflops_per_rank", "hardware_tflops_per_rank", "mfu", "hfu")
    }
    parts = [record["split"] for record in records if record["split"]]
    memories = [record["memory"] for record in records if record["memory"]]
    losses = [record["validation_loss"] for record in records]
    return {
        "shape": first["shape"],
        **{name: first[name] for name in GROUP},
        "seeds": [record["seed"] for record in records],
        "run_ids": [record["run_id"] for record in records],
        "interval_over": "seeds" if of_seeds else "blocks",
        "tokens_per_second_per_rank": asdict(rate),
        "tokens_per_second": rate.estimate * first["shape"]["nodes"] * first["shape"]["ranks_per_node"],
        **{name: rate.estimate * each if each else None for name, each in per_token.items()},
        "peak": first["peak"],
        "why_no_mfu": first["why_no_mfu"],
        "step_seconds": _median([record["step_seconds"] for record in records]),
        "split": {name: _median([part[name] for part in parts]) for name in SPLIT} if parts else None,
        "memory": {kind: _most([memory[kind] for memory in memories]) for kind in ("allocated", "reserved")}
        if memories
        else None,
        "validation_loss": _median(losses),
        "rank_hours": sum(record["rank_hours"] for record in records),
        "patch_sha256": first["patch_sha256"],
    }


def _hours(runs: list[Record]) -> list[Record]:
    """Hours of all ranks by level of evidence, beside what was planned for the same runs."""
    levels = dict.fromkeys(run["evidence"] for run in runs)
    rows = []
    for level in levels:
        mine = [run for run in runs if run["evidence"] == level]
        planned = [run["gpu_hours_planned"] for run in mine]
        rows.append(
            {
                "evidence": level,
                "runs": len(mine),
                "rank_hours": sum(run["rank_hours"] for run in mine),
                "gpu_hours_planned": None if None in planned else sum(planned),
            }
        )
    return rows


def _present(values: Any) -> Floats:
    found: Floats = np.array([np.nan if value is None else value for value in values], dtype=float)
    return found[np.isfinite(found)]


def _median(values: Any) -> float | None:
    return float(np.median(present)) if (present := _present(values)).size else None


def _most(values: Any) -> int | None:
    return int(present.max()) if (present := _present(values)).size else None


def _last(values: Any) -> float | None:
    return float(present[-1]) if (present := _present(values)).size else None


def settings_apart(groups: list[Record]) -> list[str]:
    """For each group what sets it apart beside model, variant and nodes: all that is swept, and more only where needed.

    A constant global batch has another accumulation on every number of nodes: that alone is worth no word.
    """
    further = [
        {
            "accumulation": f"g={group['gradient_accumulation']}",
            "hpz": f"hpZ {group['shape']['hpz']}" if group["shape"]["hpz"] > 1 else "",
            "ranks": f"{group['shape']['ranks_per_node']} ranks a node",
            "timer": "" if group["throughput_timer"] else "no timer",
            "steps": f"{group['steps']} steps",
            "release": group["release"],
            "device": group["device"],
            "card": group["card"] or "",
        }
        for group in groups
    ]
    words = [{"link": group["link"] or "", **axis_words(group["axes"])} for group in groups]
    swept = dict.fromkeys(name for each in words for name in each)
    chosen = [name for name in swept if len({each.get(name, "") for each in words}) > 1]
    for name in further[0] if further else ():
        alike: dict[tuple[str, ...], set[str]] = {}
        for group, each, more in zip(groups, words, further, strict=True):
            place = (group["model"], group["variant"], str(group["shape"]["nodes"]))
            alike.setdefault((*place, *(each[one] for one in chosen)), set()).add(more[name])
            each[name] = more[name]
        chosen += [name] if any(len(values) > 1 for values in alike.values()) else []
    return [", ".join(each[name] for name in chosen if each[name]) for each in words]
