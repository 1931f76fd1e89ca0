"""What the rules of the paper's claims have in common: which pairs bear on one, and what a failure among them proves.

A failure counts against hpZ only beside a control: ZeRO-3 under the same order and settings, which has an unordered
access of its own and must not have failed there, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from analysis.judge.evidence import SOUND, zero3_beside

Record = Mapping[str, Any]
Verdict = Literal["supported", "refuted", "bounded", "not tested"]

IN_ORDER = ("eager", "native")


@dataclass(frozen=True)
class Found:
    """What a rule concludes from `pairs`; `numbers` are those that decided it."""

    verdict: Verdict
    why: str
    pairs: list[Record] = field(default_factory=list)
    numbers: Mapping[str, float | None] = field(default_factory=dict)


NOTHING = Found("not tested", "this study holds no run that bears on it")


def select(
    summary: Record, *variants: str, aligned: bool | None = None, in_order: bool | None = None
) -> list[Record]:
    return [
        pair
        for pair in summary["pairs"]
        if pair["verdict"]
        and pair["variant"] in variants
        and aligned in (None, pair["model_aligned"])
        and in_order in (None, pair["policy"] in IN_ORDER and pair["evidence"] in ("virtual-device", "cpu"))
    ]


def failing(pairs: list[Record]) -> list[Record]:
    return [pair for pair in pairs if pair["verdict"] not in SOUND]


def excuse_of(pair: Record, summary: Record, allowed: tuple[str, ...] = SOUND) -> str | None:
    """Why a pair outside `allowed` proves nothing of hpZ; None where it does."""
    control = zero3_beside(pair, summary["pairs"])
    if control is None:
        return "ZeRO-3 was not run under the same order"
    if control not in allowed:
        return f"ZeRO-3 itself is not {' or '.join(allowed)} under the same order"
    if pair["verdict"] == "drifted" and not pair["band"] and "equivalent" in allowed:
        return "there is no tolerance band, for want of baseline seeds"
    return None


def excuses(pairs: list[Record], summary: Record, allowed: tuple[str, ...] = SOUND) -> str:
    """The excuses of all pairs, each with the number of pairs."""
    counts = Counter(excuse for pair in pairs if (excuse := excuse_of(pair, summary, allowed)))
    return "; ".join(f"in {count} {excuse}" for excuse, count in counts.items())


def fails(summary: Record, pairs: list[Record], in_order: list[Record], what: str) -> Found:
    """An existence claim: supported by a failure beside sound controls; bounded where nothing failed, or all did."""
    if not pairs:
        return NOTHING
    failed = failing(pairs)
    own = [pair for pair in failed if not excuse_of(pair, summary)]
    diverged = sum(pair["verdict"] == "diverged" for pair in own)
    numbers = {
        "pairs": len(pairs),
        "failed": len(failed),
        "failed_beside_control": len(own),
        "diverged": diverged,
        "failed_in_order": len(failing(in_order)),
    }
    if not failed:
        return Found("bounded", f"{what}: none of {len(pairs)} pairs fails here", pairs, numbers)
    if failing(in_order):
        why = f"{what}: {len(failed)} of {len(pairs)} pairs fail, but so does the control in order"
        return Found("bounded", why, [*failed, *failing(in_order)], numbers)
    doubt = excuses(failed, summary)
    if not own:
        return Found(
            "bounded", f"{what}: {len(failed)} of {len(pairs)} pairs fail, but {doubt}", failed, numbers
        )
    first = min(pair["first_bad_step"] for pair in own)
    why = f"{what}: {len(own)} of {len(pairs)} pairs fail where ZeRO-3 does not ({diverged} diverged), "
    why += f"first at step {first}"
    why += f"; none of {len(in_order)} controls in order does" if in_order else ""
    why += f"; {len(failed) - len(own)} more fail, but {doubt}" if doubt else ""
    return Found("supported", why, own, numbers)


def exceptions(summary: Record, pairs: list[Record], allowed: tuple[str, ...], what: str) -> Found | None:
    """What pairs outside `allowed` say against a claim about all pairs; None where there are none."""
    outside = [pair for pair in pairs if pair["verdict"] not in allowed]
    own = [pair for pair in outside if not excuse_of(pair, summary, allowed)]
    numbers = {"pairs": len(pairs), "outside": len(outside), "outside_beside_control": len(own)}
    if own:
        why = f"{len(own)} of {len(pairs)} pairs {what} where ZeRO-3 does not fail"
        return Found("refuted", why, own, numbers)
    if outside:
        why = f"{len(outside)} of {len(pairs)} pairs {what}, but {excuses(outside, summary, allowed)}"
        return Found("bounded", why, outside, numbers)
    return None


def simulated_runs(run_ids: list[str]) -> list[Record]:
    return [{"run_id": run_id, "evidence": "simulated-time"} for run_id in run_ids]
