"""What torch's stream sanitizer found in the runs of a study, for the page; nothing where no run was watched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.judge.pairs import Matched


@dataclass(frozen=True)
class Watched:
    """What the sanitizer saw in one run, over all its ranks; `findings` are distinct, the most frequent first."""

    run_id: str
    variant: str
    gradient_accumulation: int
    throughput_timer: bool
    kernels: int
    findings: list[dict[str, Any]]
    evidence: str


def watched_runs(matched: Matched, folder: Path) -> list[Watched]:
    """One entry a run that was watched, in the order of the study."""
    found = []
    for recorded in matched.of.values():
        files = sorted(folder.glob(f"*/{recorded.run_id}/witness-*.json"))  # in runs/, or kept in witness/
        if files:
            run = recorded.run
            contents = [json.loads(file.read_text()) for file in files]
            found.append(
                Watched(
                    recorded.run_id,
                    run.variant,
                    run.training.gradient_accumulation,
                    run.training.throughput_timer,
                    sum(content["kernels"] for content in contents),
                    _together(finding for content in contents for finding in content["findings"]),
                    run.evidence,
                )
            )
    return found


def profiles(folder: Path) -> list[str]:
    """torch's profiles of one step of a run, in runs/ or kept in witness/, as seen from the folder of the report."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.glob("*/*/profile-*.json.gz"))


def _together(findings: Any) -> list[dict[str, Any]]:
    """The same two accesses on several ranks are one finding."""
    rows: dict[str, dict[str, Any]] = {}
    for finding in findings:
        key = json.dumps([finding["first"], finding["second"]])
        row = rows.setdefault(key, {**finding, "count": 0})
        row["count"] += finding["count"]
    return sorted(rows.values(), key=lambda row: -row["count"])
