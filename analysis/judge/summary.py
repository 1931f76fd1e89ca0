"""summary.json: every pair with its verdict, and what follows for each variant.

Its JSON Schema is analysis/schema/summary.schema.json.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from analysis.collect.collect import Collected, collect_study
from analysis.judge.audit import audit_records
from analysis.judge.axes import axes_text, further_axes
from analysis.judge.claims import judge_claims
from analysis.judge.clock import clock_record
from analysis.judge.clock_tables import load_clock
from analysis.judge.convergence import VERDICTS, Curve, final_difference
from analysis.judge.evidence import (
    LEVELS,
    SOUND,
    could_reorder,
    extra_host_syncs,
    fault_of,
    left_to_chance,
    moved,
    weaker,
)
from analysis.judge.gpu import gpu_record
from analysis.judge.pair_records import Bands, check_secondary_gathers, pair_record
from analysis.judge.pairs import Matched, Pair, match
from analysis.judge.paper_form import load_form, paper_rows
from analysis.judge.race_matrix import load_matrix, matrix_record
from analysis.judge.speed import throughput_record
from analysis.judge.stragglers import straggler_records
from analysis.judge.wire import wire_records
from analysis.judge.witness import watched_runs
from harness import __version__
from harness.record.hours import study_hours
from harness.study import Study, load_study
from harness.system.errors import HarnessError
from harness.system.utc import utc_now
from harness.system.whole_file import write_json

SCHEMA_VERSION = 1


Record = dict[str, Any]


def load_summary(folder: str | Path) -> Record:
    """summary.json of a results folder. Raises HarnessError when there is none."""
    file = Path(folder) / "summary.json"
    try:
        content: Record = json.loads(file.read_text())
    except OSError as error:
        raise HarnessError(
            f"{file}: cannot be read ({error.strerror}); run `hpz report {folder}` first"
        ) from error
    except ValueError as error:
        raise HarnessError(f"{file}: not JSON ({error}); run `hpz report {folder}` again") from error
    if content.get("schema_version") != SCHEMA_VERSION:
        found = content.get("schema_version")
        raise HarnessError(
            f"{file}: schema_version {found!r}, this version reads {SCHEMA_VERSION}; report again"
        )
    return content


def write_summary(folder: Path, summary: Record) -> Path:
    """Write summary.json in one move."""
    file = folder / "summary.json"
    json.dumps(summary, allow_nan=False)  # strict JSON or an error here, before anything is replaced
    write_json(file, summary)
    return file


def summarise(study: Study, collected: Collected) -> Record:
    """The content of summary.json. Raises HarnessError for an hpZ run that never gathered a secondary shard."""
    return summarise_matched(match(study, collected), collected)


def summarise_matched(matched: Matched, collected: Collected) -> Record:
    study = matched.study
    for recorded in matched.of.values():
        check_secondary_gathers(recorded, study)
    bands = Bands(matched)
    pairs = [pair_record(pair, bands, study) for pair in matched.pairs]
    environments = environments_of(matched)
    runs = {pair.run_id: pair.run for pair in matched.pairs}
    wire = wire_records(matched)
    witness = watched_runs(matched, collected.folder)
    watched = {one.run_id for one in witness}
    summary: Record = {
        "schema_version": SCHEMA_VERSION,
        "study": study.name,
        "question": study.question,
        "generated_utc": utc_now(),
        "versions": {"hpz-lab": __version__, **(environments[0]["versions"] if environments else {})},
        "environments": environments,
        "rule": study.rule.model_dump(mode="json"),
        "trained_with": {
            name: sorted({str(getattr(run.training, name)) for run in study.runs})
            for name in ("attention", "optimizer")
        },
        "pairs": pairs,
        "variants": [
            variant_record(name, pairs) for name in dict.fromkeys(pair["variant"] for pair in pairs)
        ],
        "groups": group_records(matched, study),
        "audit": audit_records(pairs, runs, {pair.run_id: pair.baseline for pair in matched.pairs}, wire),
        "wire": wire,
        "gpu": gpu_record(matched, pairs),
        "throughput": throughput_record(matched, pairs, watched),
        "witness": [asdict(one) for one in witness],
        "stragglers": straggler_records(matched, collected.folder),
        "races": matrix_record(load_matrix(collected.folder)),
        "simulated": clock_record(load_clock(collected.folder, study.name)),
        "not_run": [{"run_id": run.run_id, "reason": reason} for run, reason in matched.not_run],
        "not_asked_for": matched.strays,
        "problems": [str(problem) for problem in collected.problems],
        "duplicate_steps": sum(source.duplicates for source in collected.sources),
    }
    if (collected.folder / "slurm").is_dir():
        summary["hours"] = [asdict(row) for row in study_hours(study, collected.folder)]
    return summary | {"claims": judge_claims(summary), "paper": paper_rows(study, summary, load_form())}


def variant_record(variant: str, pairs: list[Record]) -> Record:
    """What all pairs of one variant say together.

    `safe` is null where nothing could have gone wrong unseen, and where only the band of seeds speaks for it.
    """
    ours = [pair for pair in pairs if pair["variant"] == variant]
    judged = [pair for pair in ours if pair["verdict"]]
    counts = Counter(pair["verdict"] for pair in judged)
    failed = [pair for pair in judged if pair["verdict"] not in SOUND]
    reordered = [pair for pair in judged if could_reorder(pair) and not left_to_chance(pair)]
    return {
        "variant": variant,
        "pairs": len(ours),
        "not_judged": len(ours) - len(judged),
        "verdicts": {verdict: counts[verdict] for verdict in VERDICTS},
        "safe": False if failed else True if reordered and not any(map(moved, judged)) else None,
        "faults": sorted({fault_of(pair) for pair in failed}),
        "extra_host_syncs_per_step": _mean(extra_host_syncs(pair, pairs) for pair in judged),
        "secondary_gathers_per_step": _mean(pair["secondary_gathers_per_step"] for pair in judged),
        "evidence": sorted({pair["evidence"] for pair in judged}, key=LEVELS.index),
        "run_ids": [pair["run_id"] for pair in judged],
    }


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def group_records(matched: Matched, study: Study) -> list[Record]:
    """Judgeable pairs that differ in the seed alone, together: the final-window loss difference, paired by seed."""
    groups: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in matched.pairs:
        if pair.reason or pair.recorded is None:
            continue
        run = pair.run
        key = (
            run.model,
            run.variant,
            run.schedule,
            run.poison,
            run.device,
            str(run.shape),
            run.release,
            str(run.training),
            run.link,
            axes_text(further_axes(study, run)),
            str(pair.recorded.versions),
        )
        groups.setdefault(key, []).append(pair)
    return [_group_record(group, study) for group in groups.values()]


def _group_record(group: list[Pair], study: Study) -> Record:
    first = group[0].run
    curves: list[tuple[Curve, Curve]] = [
        (pair.recorded.curve, pair.recorded_baseline.curve)
        for pair in group
        if pair.recorded and pair.recorded_baseline
    ]
    difference = final_difference(
        [run.loss for run, _ in curves], [base.loss for _, base in curves], study.rule
    )
    return {
        "model": first.model,
        "variant": first.variant,
        "policy": first.schedule,
        "poison": first.poison,
        "device": first.device,
        "shape": first.shape.model_dump(mode="json"),
        "gradient_accumulation": first.training.gradient_accumulation,
        "axes": further_axes(study, first),
        "seeds": [pair.run.seed for pair in group],
        "run_ids": [pair.run_id for pair in group],
        "final_loss_difference": asdict(difference) if difference else None,
        "evidence": weaker(first.evidence, group[0].baseline.evidence),
    }


def environments_of(matched: Matched) -> list[Record]:
    """The distinct sets of package versions, commits and odd patches that runs had, the most common first."""
    found: dict[str, Record] = {}
    for one in matched.of.values():
        odd = matched.odd_patches(one)
        content = {
            "versions": one.record.get("versions") or {},
            "git": one.record.get("git") or {},
            "patches": {one.run.variant: dict(odd)} if odd else {},
        }
        entry = found.setdefault(json.dumps(content, sort_keys=True), {**content, "run_ids": []})
        entry["run_ids"].append(one.run_id)
    return sorted(found.values(), key=lambda entry: -len(entry["run_ids"]))


def summarise_folder(folder: str | Path) -> Record:
    """Collect a results folder and summarise it; nothing but the two tables is written."""
    return summarise(load_study(Path(folder)), collect_study(folder))
