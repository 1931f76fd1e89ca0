"""summary.json: every pair with its verdict, and what follows for each variant.

Its JSON Schema is analysis/schema/summary.schema.json.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from analysis.collect.collect import Collected, collect_study
from analysis.judge.audit import audit_records
from analysis.judge.clock import clock_record, load_clock
from analysis.judge.convergence import (
    VERDICTS,
    Band,
    Curve,
    Judgement,
    divergence,
    final_difference,
    judge,
    tolerance_band,
)
from analysis.judge.gpu import gpu_record
from analysis.judge.pairs import Matched, Pair, Recorded, match, mean_or_none
from analysis.judge.race_matrix import load_matrix, matrix_record
from analysis.judge.settings import shape_text
from analysis.judge.throughput import step_seconds_ratio
from analysis.judge.wire import wire_records
from harness import __version__
from harness.study import Run, Study, parse_model, unaligned_parameters
from harness.system.errors import HarnessError
from harness.system.utc import utc_now
from harness.system.whole_file import write_json

SCHEMA_VERSION = 1
LEVELS = ("multi-node", "one-gpu", "cpu", "virtual-device", "simulated-time")  # strongest first
SOUND = ("exact", "equivalent")
REORDERING = (
    "virtual-device",
    "one-gpu",
    "multi-node",
)  # where work that nothing orders can run out of order

CONDITIONS = (  # what a pair and its control share; the baseline's id stands for seed, shape and data
    "model",
    "release",
    "device",
    "schedule",
    "poison",
    "gradient_accumulation",
    "throughput_timer",
    "link",
    "baseline_run_id",
)

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
    summary: Record = {
        "schema_version": SCHEMA_VERSION,
        "study": study.name,
        "question": study.question,
        "generated_utc": utc_now(),
        "versions": {"hpz-lab": __version__, **(environments[0]["versions"] if environments else {})},
        "environments": environments,
        "rule": study.rule.model_dump(mode="json"),
        "pairs": pairs,
        "variants": [
            variant_record(name, pairs) for name in dict.fromkeys(pair["variant"] for pair in pairs)
        ],
        "groups": group_records(matched, study),
        "audit": audit_records(pairs, runs, {pair.run_id: pair.baseline for pair in matched.pairs}, wire),
        "wire": wire,
        "gpu": gpu_record(matched, pairs),
        "races": matrix_record(load_matrix(collected.folder)),
        "simulated": clock_record(load_clock(collected.folder, study.name)),
        "not_run": [{"run_id": run.run_id, "reason": reason} for run, reason in matched.not_run],
        "not_asked_for": matched.strays,
        "problems": [str(problem) for problem in collected.problems],
        "duplicate_steps": sum(source.duplicates for source in collected.sources),
    }
    from analysis.judge.claims import judge_claims

    return summary | {"claims": judge_claims(summary)}


class Bands:
    """Tolerance bands of baselines, each computed once."""

    def __init__(self, matched: Matched) -> None:
        self.matched = matched
        self._known: dict[str, tuple[Band | None, int]] = {}

    def of(self, baseline: Recorded | None) -> Band | None:
        """The band; None where there are too few seeds for one."""
        return self._look_up(baseline)[0]

    def seeds(self, baseline: Recorded | None) -> int:
        """How many seeds of the baseline there are to make a band of."""
        return self._look_up(baseline)[1]

    def _look_up(self, baseline: Recorded | None) -> tuple[Band | None, int]:
        if baseline is None or baseline.unfit:
            return None, 0
        if baseline.run_id not in self._known:
            seeds = [one for one in self.matched.seeds_of(baseline) if len(one.curve) == len(baseline.curve)]
            band = tolerance_band(np.stack([one.curve.loss for one in seeds]), self.matched.study.rule)
            self._known |= {one.run_id: (band, len(seeds)) for one in seeds}
        return self._known[baseline.run_id]


def check_secondary_gathers(recorded: Recorded, study: Study) -> None:
    """Refuse an hpZ run whose secondary shards were never used: its curve proves nothing."""
    if recorded.unfit or recorded.run.shape.hpz == 1:
        return
    warmup = study.rule.warmup_steps_dropped
    if recorded.steady("secondary_gathers", warmup).sum() > 0:
        return
    zero = recorded.run.deepspeed.get("zero_optimization", {})
    live = zero.get("stage3_max_live_parameters", "not set")
    raise HarnessError(
        f"{recorded.run_id}: hpZ is on, but no step from {warmup} on gathered a secondary shard, so equal losses would "
        f"prove nothing; in study {study.name!r} lower deepspeed.zero_optimization.stage3_max_live_parameters (now "
        f"{live}; start from 0.12 to 0.25 of the {model_parameters(recorded.run)} parameters of {recorded.run.model}) "
        f"and keep stage3_prefetch_bucket_size small and stage3_max_reuse_distance at 0"
    )


def model_parameters(run: Run) -> int:
    return parse_model(run.model_spec, f"model {run.model}").parameters


def pair_record(pair: Pair, bands: Bands, study: Study) -> Record:
    """One entry of `pairs`; of a pair that cannot be judged, verdict and measures are null and `reason` says why."""
    run = pair.run
    world = run.shape.world_size
    unaligned = len(unaligned_parameters(parse_model(run.model_spec, f"model {run.model}"), world))
    judgement, reason = _judgement(pair, bands, study)
    ran = pair.recorded.run if pair.recorded else run
    return {
        "run_id": pair.run_id,
        "baseline_run_id": pair.baseline_run_id,
        "baseline_variant": pair.baseline.variant,
        "baseline_device": pair.baseline.device,
        "baseline_policy": pair.baseline.policy,
        "baseline_seeds": bands.seeds(pair.recorded_baseline),
        "band": judgement is not None and bands.of(pair.recorded_baseline) is not None,
        "model": run.model,
        "model_aligned": unaligned == 0,
        "unaligned_parameters": unaligned,
        "variant": run.variant,
        "release": ran.release,
        "seed": run.seed,
        "device": run.device,
        "policy": run.policy,
        "schedule": run.schedule,
        "stall_us": run.stall_us,
        "throughput_timer": run.training.throughput_timer,
        "same_conditions": same_conditions(pair),
        "steps": run.training.steps,
        "poison": run.poison,
        "shape": run.shape.model_dump(mode="json"),
        "gradient_accumulation": run.training.gradient_accumulation,
        "link": run.link,
        "verdict": judgement.verdict if judgement else None,
        "reason": reason,
        "first_bad_step": judgement.first_bad_step if judgement else None,
        "first_differing_step": judgement.first_differing_step if judgement else None,
        "max_abs_loss_difference": judgement.max_abs_loss_difference if judgement else None,
        **_measures(pair, study),
        "races": _races(pair.recorded),
        "shards_sha256": pair.recorded.row["shards_sha256"] if pair.recorded else None,
        "evidence": weaker(run.evidence, pair.baseline.evidence),
        "patch_sha256": dict(ran.patches),
    }


def same_conditions(pair: Pair) -> bool:
    """Whether run and baseline were held up alike and trained alike, so that times and host waits compare."""
    return pair.run.stall_us == pair.baseline.stall_us and pair.run.training == pair.baseline.training


def _judgement(pair: Pair, bands: Bands, study: Study) -> tuple[Judgement | None, str]:
    if pair.reason or pair.recorded is None or pair.recorded_baseline is None:
        return None, pair.reason or "not started"
    baseline = pair.recorded_baseline
    if bad := divergence(baseline.curve, study.rule):
        return None, f"its baseline diverged itself: {bad[1]} at step {bad[0]}"
    judgement = judge(pair.recorded.curve, baseline.curve, bands.of(baseline), study.rule)
    return judgement, judgement.reason


def _measures(pair: Pair, study: Study) -> Record:
    """What was counted per steady step, of the run and, for comparison, of its baseline."""
    names = {
        "secondary_gathers_per_step": "secondary_gathers",
        "host_syncs_per_step": "host_syncs",
        "bytes_intra_per_step": "bytes_intra",
        "bytes_inter_per_step": "bytes_inter",
    }
    run, baseline = pair.recorded, pair.recorded_baseline
    measures: Record = {"skipped_steps": run.row["skipped_steps"] if run else None}
    for prefix, recorded in (("", run), ("baseline_", baseline)):
        measures |= {prefix + key: _per_step(recorded, column, study) for key, column in names.items()}
    ratio = None
    if run and baseline and not pair.reason and same_conditions(pair):
        ratio = step_seconds_ratio(run.columns["step_seconds"], baseline.columns["step_seconds"], study.rule)
    measures["step_seconds_ratio"] = asdict(ratio) if ratio else None
    return measures


def _races(recorded: Recorded | None) -> Record | None:
    """Distinct races that the run's analysis found, and the known faults among them; None where it was not analysed."""
    text = recorded.row["races"] if recorded else None
    if not text:
        return None
    races = json.loads(text)["races"]
    return {"distinct": len(races), "labels": sorted({race["label"] for race in races if race.get("label")})}


def _per_step(recorded: Recorded | None, column: str, study: Study) -> float | int | None:
    if recorded is None or recorded.unfit:
        return None
    mean = mean_or_none(recorded.steady(column, study.rule.warmup_steps_dropped))
    return round(mean) if mean is not None and column.startswith("bytes") else mean


def weaker(*levels: str) -> str:
    """The weakest evidence level: what a number made of several may be quoted at."""
    return max(levels, key=LEVELS.index)


def variant_record(variant: str, pairs: list[Record]) -> Record:
    """What all pairs of one variant say together.

    `safe` is null where nothing could have gone wrong unseen, and where only the band of seeds speaks for it.
    """
    ours = [pair for pair in pairs if pair["variant"] == variant]
    judged = [pair for pair in ours if pair["verdict"]]
    counts = Counter(pair["verdict"] for pair in judged)
    failed = [pair for pair in judged if pair["verdict"] not in SOUND]
    reordered = [pair for pair in judged if _could_reorder(pair) and not left_to_chance(pair)]
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


def _could_reorder(pair: Record) -> bool:
    return pair["evidence"] in REORDERING and pair["policy"] != "eager"


def left_to_chance(pair: Mapping[str, Any]) -> bool:
    """A GPU at its own rate: what does not strike there may strike elsewhere, so only a stall can acquit."""
    return bool(pair["evidence"] == "one-gpu" and not pair["stall_us"])


def moved(pair: Mapping[str, Any]) -> bool:
    """Inside the band of seeds, yet not bit-equal on the virtual device, where nothing but an order changes values."""
    return bool(pair["evidence"] == "virtual-device" and pair["verdict"] == "equivalent")


def fault_of(pair: Record) -> str:
    """Which fault a failed pair shows: in program order only the missing copy can; on aligned sizes only the race."""
    if not _could_reorder(pair):
        return "in order"
    return "reordered, aligned" if pair["model_aligned"] else "reordered, unaligned"


def extra_host_syncs(pair: Record, pairs: Iterable[Record]) -> float | None:
    """Host waits per step beyond ZeRO-3's under the same policy; None for a failed pair or where nothing compares.

    ZeRO-3 under that policy is the pair's baseline or, where that runs under another one, a pair of its own.
    """
    ours = pair["host_syncs_per_step"]
    if ours is None or pair["verdict"] not in SOUND or not pair["same_conditions"]:
        return None
    if baseline_ran_alike(pair):
        theirs = pair["baseline_host_syncs_per_step"]
    else:
        control = control_of(pair, pairs, pair["baseline_variant"])
        theirs = control["host_syncs_per_step"] if control else None
    return None if theirs is None else ours - theirs


def baseline_ran_alike(pair: Mapping[str, Any]) -> bool:
    """Whether the pair's baseline ran on the same device, in the same order and trained alike."""
    order = (pair["baseline_device"], pair["baseline_policy"]) == (pair["device"], pair["policy"])
    return bool(pair["same_conditions"] and order)


def zero3_beside(pair: Mapping[str, Any], pairs: Iterable[Mapping[str, Any]]) -> str | None:
    """Verdict of ZeRO-3 under the pair's order and settings; None where it was not run there."""
    name = "zero3+step" if pair["variant"].endswith("+step") else "zero3"
    if pair["baseline_variant"] == name and baseline_ran_alike(pair):
        return "exact"
    control = control_of(pair, pairs, name)
    return control["verdict"] if control else None


def control_of(
    pair: Mapping[str, Any], pairs: Iterable[Mapping[str, Any]], variant: str
) -> Mapping[str, Any] | None:
    """The judged pair of `variant` that differs from `pair` in the variant alone; None where there is none."""
    alike = (
        other
        for other in pairs
        if other["variant"] == variant
        and other["verdict"]
        and all(other[name] == pair[name] for name in CONDITIONS)
    )
    return next(alike, None)


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


VARYING = {"release": "release", "device": "device", "link": "link", "gradient_accumulation": "accum."}
NUMBERS = {
    "seed": "seed",
    "first_bad_step": "first bad step",
    "secondary_gathers_per_step": "gathers",
    "host_syncs_per_step": "host syncs",
}


def verdict_table(summary: Mapping[str, Any]) -> Table:
    """The judged pairs of a summary as a table for the terminal; settings that all pairs share are left out."""
    pairs = [pair for pair in summary["pairs"] if pair["verdict"]]
    levels = ", ".join(dict.fromkeys(pair["evidence"] for pair in pairs))
    table = Table(title=f"{summary['study']}: verdicts (evidence: {levels or 'none'})", title_justify="left")
    varying = {key: name for key, name in VARYING.items() if len({pair[key] for pair in pairs}) > 1}
    for name in ("model", "variant", "shape", *varying.values(), "policy", "verdict"):
        table.add_column(name)
    for name in NUMBERS.values():
        table.add_column(name, justify="right")
    for pair in pairs:
        table.add_row(
            pair["model"],
            pair["variant"],
            shape_text(pair["shape"]),
            *(str(pair[key]) for key in varying),
            pair["schedule"],
            _styled(pair["verdict"]),
            *(_text(pair[key]) for key in NUMBERS),
        )
    if summary["not_run"]:
        table.caption = (
            f"{len(summary['not_run'])} runs not run or unfinished; the report lists them with the reason"
        )
    return table


def _styled(verdict: str) -> str:
    style = {"exact": "green", "equivalent": "green", "drifted": "yellow", "diverged": "red"}[verdict]
    return f"[{style}]{verdict}[/]"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{round(value, 1):g}"


def summarise_folder(folder: str | Path) -> Record:
    """Collect a results folder and summarise it; nothing but the two tables is written."""
    from harness.study import load_study

    return summarise(load_study(Path(folder)), collect_study(folder))
