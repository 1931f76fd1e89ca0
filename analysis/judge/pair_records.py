"""The entries of `pairs` in summary.json: each pair with its verdict and what was counted."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from analysis.judge.axes import further_axes
from analysis.judge.band import Band, tolerance_band
from analysis.judge.convergence import Judgement, divergence, judge
from analysis.judge.evidence import weaker
from analysis.judge.pairs import Matched, Pair, Recorded, mean_or_none
from analysis.judge.throughput import step_seconds_ratio
from harness.study import Run, Study, parse_model, unaligned_parameters
from harness.system.errors import HarnessError

Record = dict[str, Any]


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
        "axes": further_axes(study, run),
        "verdict": judgement.verdict if judgement else None,
        "reason": reason,
        "first_bad_step": judgement.first_bad_step if judgement else None,
        "first_differing_step": judgement.first_differing_step if judgement else None,
        "max_abs_loss_difference": judgement.max_abs_loss_difference if judgement else None,
        "smallest_drift": judgement.smallest_drift if judgement else None,
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
