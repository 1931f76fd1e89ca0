"""Step time by rank: which rank or node the others wait for, and by how much, where that is more than noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.judge.pairs import Matched
from harness.record.ranks import Pace, paces, read_windows, slow_ranks

Record = dict[str, Any]
SHOWN = 64  # ranks of a run that the summary lists, the slowest; a run may have thousands


def straggler_records(matched: Matched, folder: Path) -> list[Record]:
    """One entry a run whose ranks told their times, in the order of the study."""
    found = []
    for recorded in {one.run_id: one for one in matched.of.values()}.values():
        for file in sorted(folder.glob(f"*/{recorded.run_id}/ranks.jsonl")):  # in runs/, or kept in ranks/
            windows = read_windows(file)
            by_rank = paces(windows, matched.study.rule.warmup_steps_dropped)
            if by_rank:
                found.append(
                    {
                        "run_id": recorded.run_id,
                        "variant": recorded.run.variant,
                        "windows": len(windows),
                        "step_seconds": max(pace.step_seconds for pace in by_rank),
                        "ranks": _listed(by_rank),
                        "slow": [
                            {"node": slow.node, "ranks": list(slow.ranks), "says": slow.sentence}
                            for slow in slow_ranks(by_rank)
                        ],
                        "evidence": recorded.run.evidence,
                    }
                )
    return found


def _listed(by_rank: list[Pace]) -> list[Record]:
    shown = sorted(by_rank, key=lambda pace: -pace.ratio)[:SHOWN]
    return [
        {
            "rank": pace.rank,
            "node": pace.node,
            "own_seconds": pace.own_seconds,
            "ratio": pace.ratio,
            "low": pace.low,
            "high": pace.high,
        }
        for pace in sorted(shown, key=lambda pace: pace.rank)
    ]
