"""Triage: which known fault a training curve looks like, by the stated rules below, given configuration and release.

A *sign* is something seen in the curve or known of the run; a rule says how many points a sign gives for or against a
fault, and why. Exposure (`harness.diagnose.faults`) rules faults out. The rules are tested on runs that really have
each fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.diagnose.curve import Curve, read_curve
from harness.diagnose.faults import FAULTS as KNOWN_FAULTS
from harness.diagnose.faults import Answer, Exposure, Fault, Setup, exposures
from harness.record.directory import RunDirectory
from harness.study.models import ModelFile, parameter_shapes
from harness.study.study import Run
from harness.system.errors import HarnessError
from harness.variants import Variant

STUCK = 5  # equal losses in a row
ENOUGH = 3  # points that name a fault
SILENCE_SECONDS = 10.0
SILENCE = 20  # times the longest step so far
SILENCE_BEFORE_FIRST = 300.0  # seconds without a first step
OLD_COPY = "0.13.4"  # the last release with the race and the old copy


@dataclass(frozen=True, kw_only=True)
class Case:
    """A curve and what is known of its run; what is not known is None or empty."""

    source: str
    curve: Curve
    hpz: bool | None = None
    exposed: Mapping[str, Exposure] = field(default_factory=dict)
    vocabulary: int | None = None
    loss_scaling: bool | None = None
    """Whether it trains in fp16, where steps with an infinite gradient norm are skipped as a matter of course."""
    silence: float | None = None
    """Seconds since the run was last heard of, where it has not ended by itself."""


@dataclass(frozen=True)
class Rule:
    """`sign` gives `points` to `fault`, because of `reason`."""

    fault: str
    sign: str
    points: int
    reason: str


FAULTS = ("race", "missing copy", "stale secondary", "offload", "hang", "plain instability")

ENTRIES: dict[str, tuple[str, ...]] = {
    # The entries of harness.diagnose.faults that make a fault possible; plain instability is always possible.
    "race": ("race",),  # the optimizer step's own race leaves finite weights, one step old: no curve tells it
    "missing copy": ("missing copy",),
    "stale secondary": ("stale secondary", "dirty after load"),
    "offload": ("offload",),
    "hang": ("hang",),
}
NEVER_EXCLUDED = ("hang", "plain instability")  # these happen without any known fault of hpZ, too

RULES: tuple[Rule, ...] = (
    Rule("race", "comes and goes", 3, "only order changes from step to step; sizes and settings do not"),
    Rule("race", "broken at once", 2, "the first secondary all-gathers may already read too early"),
    Rule("race", "broken later", 2, "it strikes without warning, whenever the all-gather is early"),
    Rule("race", "zero loss", 2, "memory that was not written yet is often zero (#5059)"),
    Rule("race", "climbs", -2, "it breaks a step; it does not build up over steps"),
    Rule("race", "gradient grows", -1, "it breaks a step; it does not build up over steps"),
    Rule("race", "exposed", 2, "release and configuration leave the order open"),
    Rule("missing copy", "broken at once", 3, "sizes alone decide, so it strikes in the first step or never"),
    Rule("missing copy", "stays broken", 1, "the same elements are missing in each step"),
    Rule("missing copy", "broken later", -3, "sizes do not change, so it cannot wait for a later step"),
    Rule("missing copy", "comes and goes", -2, "the same elements are missing in each step"),
    Rule("missing copy", "climbs", -2, "it is wrong from the first step, not more and more"),
    Rule("missing copy", "exposed", 2, "some sizes do not divide by the world size"),
    Rule(
        "stale secondary",
        "first step too high",
        3,
        "old weights are gathered once, then the new ones (#7606)",
    ),
    Rule(
        "stale secondary", "does not learn", 2, "updates do not reach the weights that are gathered (#4851)"
    ),
    Rule("stale secondary", "untrained level", 1, "the initial weights are gathered again and again"),
    Rule("stale secondary", "broken at once", -3, "old weights are finite"),
    Rule("stale secondary", "broken later", -2, "old weights are finite"),
    Rule("stale secondary", "climbs", -1, "old weights stay as good as they were"),
    Rule("stale secondary", "exposed", 2, "the release keeps secondary partitions that are out of date"),
    Rule("offload", "no gradient", 3, "nothing moves once the gathered weights are zero (#6926)"),
    Rule("offload", "stuck", 1, "reported with the loss at one value"),
    Rule(
        "offload",
        "uniform guess",
        2,
        "weights of zero predict every token alike; 11.93 is ln 152,064, a vocabulary",
    ),
    Rule("offload", "zero loss", 2, "reported with the loss at 0.0, too"),
    Rule("offload", "comes and goes", -2, "reported as constant"),
    Rule("offload", "climbs", -2, "reported as constant"),
    Rule("offload", "exposed", 2, "parameters or optimizer are offloaded together with hpZ"),
    Rule("hang", "silent", 5, "no step came for far longer than any step took"),
    Rule("plain instability", "climbs", 3, "the training itself drives the loss up, step by step"),
    Rule("plain instability", "gradient grows", 2, "large updates follow one another"),
    Rule("plain instability", "broken later", 1, "overflow follows growth"),
    Rule("plain instability", "broken at once", 1, "bad data or precision break the first step, too"),
    Rule(
        "plain instability",
        "comes and goes",
        -2,
        "after an overflow of its own a training rarely recovers at once",
    ),
    Rule("plain instability", "no known fault", 2, "no known fault of hpZ is open to this run"),
)

NEXT: dict[str, tuple[str, ...]] = {
    "race": (
        'set "overlap_comm": false for a few steps: with one stream the loss must be right',
        "upgrade to 0.13.5 or later, or put `hpz patch path event` first on PYTHONPATH",
        "prove it: hpz race --script train.py --config ds_config.json --ranks 4 shows both source lines",
    ),
    "missing copy": (
        "hpz audit MODEL_FILE --ranks-per-node R --nodes N shows which parameters",
        "upgrade to 0.13.5 or later; until then use a world size that divides all parameter sizes",
    ),
    "stale secondary": (
        "call optimizer.invalidate_secondary_tensor() after loading weights: the first loss must be right",
        "upgrade to 0.18.3 or later; before 0.13.2 nothing else helps",
    ),
    "offload": (
        "leave out offload_param and offload_optimizer for a few steps, then hpZ: which one ends it?",
        "train with one of the two; report at deepspeedai/DeepSpeed#6926 what you found",
    ),
    "hang": (
        "py-spy dump --pid PID on every rank: the rank that is not in a collective is the cause",
        "run again without zero_hpz_partition_size; set TORCH_NCCL_DUMP_ON_TIMEOUT=1 for the collectives' history",
    ),
    "plain instability": (
        "train a few steps without hpZ (zero_hpz_partition_size 1): the curve must be the same",
        "lower the learning rate tenfold or lengthen the warm-up; check the batch at the first bad step",
    ),
    "nothing": ("nothing to do; hpz doctor says what the configuration is exposed to",),
    "unrecognised": (
        "give --config, --release, --world-size, --ranks-per-node and --model: they rule faults out",
        "train a few steps without hpZ and compare",
    ),
}


@dataclass(frozen=True)
class Evidence:
    points: int
    sign: str
    seen: str
    """What was seen, with its numbers."""
    reason: str


@dataclass(frozen=True)
class Finding:
    """One fault: its points and why."""

    fault: str
    points: int
    ruled_out: str | None
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Triage:
    """The answer. `verdict` is a fault, `nothing`, or `unrecognised` (a broken curve that no rule names)."""

    source: str
    verdict: str
    possible: tuple[str, ...]
    """Other faults that the rules name as well, the likeliest first."""
    signs: Mapping[str, str]
    findings: tuple[Finding, ...]
    next: tuple[str, ...]
    notes: tuple[str, ...]

    def as_record(self) -> dict[str, Any]:
        return {"schema_version": 1, **asdict(self)}


def triage(case: Case) -> Triage:
    """Weigh the signs of a case by the rules."""
    of_curve = curve_signs(case)
    findings = sorted((_weigh(fault, of_curve, case) for fault in FAULTS), key=_order)
    named = (
        [one.fault for one in findings if one.ruled_out is None and one.points >= ENOUGH] if of_curve else []
    )
    wrong = of_curve.keys() - {"does not learn"}
    verdict = named[0] if named else "unrecognised" if wrong else "nothing"
    return Triage(
        source=case.source,
        verdict=verdict,
        possible=tuple(named[1:]),
        signs=of_curve,
        findings=tuple(findings),
        next=NEXT[verdict],
        notes=(*case.curve.notes, *_notes(case, of_curve)),
    )


def _order(finding: Finding) -> tuple[bool, int]:
    return (finding.ruled_out is not None, -finding.points)


def _weigh(fault: str, of_curve: Mapping[str, str], case: Case) -> Finding:
    answer, reason = _exposure(fault, case)
    ruled_out = reason if answer == "no" and fault not in NEVER_EXCLUDED else None
    seen = dict(of_curve)
    if answer == "yes":
        seen["exposed"] = reason
    if case.hpz is False or (case.exposed and all(_exposure(one, case)[0] == "no" for one in ENTRIES)):
        seen["no known fault"] = "hpZ is off" if case.hpz is False else "every known fault is ruled out"
    evidence = tuple(
        Evidence(rule.points, rule.sign, seen[rule.sign], rule.reason)
        for rule in RULES
        if rule.fault == fault and rule.sign in seen
    )
    return Finding(fault, sum(one.points for one in evidence), ruled_out, evidence)


def _exposure(fault: str, case: Case) -> tuple[Answer, str]:
    """The strongest answer of the fault's entries, and its reason."""
    entries = [case.exposed[name] for name in ENTRIES.get(fault, ()) if name in case.exposed]
    for answer in ("yes", "unknown", "no"):
        for entry in entries:
            if entry.exposed == answer:
                return entry.exposed, entry.reason
    return "unknown", "not known: no configuration or release was given"


def _notes(case: Case, of_curve: Mapping[str, str]) -> list[str]:
    """What the reader must know to weigh the answer."""
    notes = [] if case.exposed else ["judged by the curve alone; --config and --release rule faults out"]
    if "does not learn" in of_curve:
        notes.append(f"{of_curve['does not learn']}; that alone names no fault")
    only_gradients = np.isinf(case.curve.grad_norm).any() and not np.isnan(case.curve.loss).any()
    if only_gradients and case.loss_scaling is None:
        notes.append("only gradient norms are not finite; that is usual in fp16, so give --config")
    open_ones = (case.exposed[name] for name in ("race", "missing copy", "offload") if name in case.exposed)
    return notes + [f"{one.fault}: {one.reason}" for one in open_ones if one.exposed == "unknown"]


# Signs of the curve: name → what was seen. Each is a small function of the case that returns None where it is absent.


def curve_signs(case: Case) -> dict[str, str]:
    """Every sign that the curve shows, with its numbers."""
    found = {name: sign(case) for name, sign in SIGNS.items()}
    return {name: seen for name, seen in found.items() if seen is not None}


def _broken(case: Case) -> NDArray[np.intp]:
    """Indices of steps whose loss, or (but for loss scaling) gradient norm, is not finite."""
    bad_gradient = np.isinf(case.curve.grad_norm) & (not case.loss_scaling)
    return np.flatnonzero(np.isnan(case.curve.loss) | bad_gradient)


def _healthy_part(case: Case) -> slice:
    broken = _broken(case)
    return slice(0, int(broken[0]) if len(broken) else len(case.curve))


def broken_at_once(case: Case) -> str | None:
    """Not finite in the first step or the second (the first with secondary partitions of this run's own making)."""
    broken = _broken(case)
    if not len(broken) or broken[0] > 1:
        return None
    return f"loss or gradient norm is not finite at step {case.curve.step[broken[0]]} already"


def broken_later(case: Case) -> str | None:
    broken = _broken(case)
    if not len(broken) or broken[0] <= 1:
        return None
    return f"loss or gradient norm is finite up to step {case.curve.step[broken[0] - 1]}, then not"


def stays_broken(case: Case) -> str | None:
    broken = _broken(case)
    rest = len(case.curve) - int(broken[0]) if len(broken) else 0
    return f"all {rest} steps from there on are not finite" if rest == len(broken) >= 3 else None


def comes_and_goes(case: Case) -> str | None:
    """Finite steps between steps that are not, twice at least."""
    broken = _broken(case)
    returns = int((np.diff(broken) > 1).sum()) + int(len(broken) > 0 and broken[-1] < len(case.curve) - 1)
    if returns < 2:
        return None
    return f"{len(broken)} of {len(case.curve)} steps are not finite, with finite ones between"


def climbs(case: Case) -> str | None:
    """Three losses in a row half as high again as the best before them (and by 0.5 at least)."""
    loss = case.curve.loss[_healthy_part(case)]
    if len(loss) < 4:
        return None
    best = np.minimum.accumulate(loss)
    high = loss[1:] > best[:-1] + np.maximum(0.5 * best[:-1], 0.5)
    runs = np.flatnonzero(high[:-2] & high[1:-1] & high[2:])
    if not len(runs):
        return None
    top = float(loss.max())
    return f"the loss climbs from {best[runs[0]]:.3g} to {top:.3g} over several steps"


def gradient_grows(case: Case) -> str | None:
    """The median of three gradient norms in a row is ten times the first."""
    norm = case.curve.grad_norm[_healthy_part(case)]
    norm = norm[np.isfinite(norm)]
    if len(norm) < 4 or norm[0] <= 0:
        return None
    top = float(np.median(np.lib.stride_tricks.sliding_window_view(norm, 3), axis=1).max())
    return f"the gradient norm grows from {norm[0]:.3g} to {top:.3g}" if top >= 10 * norm[0] else None


def _stuck_value(curve: Curve) -> float | None:
    tail = curve.loss[-STUCK:]
    constant = len(tail) == STUCK and np.isfinite(tail).all() and (tail == tail[0]).all()
    return float(tail[0]) if constant else None


def stuck(case: Case) -> str | None:
    value = _stuck_value(case.curve)
    return None if value is None else f"the last {STUCK} losses or more are all {value:.6g}"


def no_gradient(case: Case) -> str | None:
    stands = _stuck_value(case.curve) is not None and (case.curve.grad_norm[-STUCK:] == 0).all()
    return "the gradient norm is exactly 0 there" if stands else None


def uniform_guess(case: Case) -> str | None:
    value = _stuck_value(case.curve)
    if value is None or not case.vocabulary or abs(value - math.log(case.vocabulary)) > 0.01:
        return None
    return f"{value:.4f} is the logarithm of the vocabulary, {case.vocabulary} tokens"


def zero_loss(case: Case) -> str | None:
    zeros = int((case.curve.loss == 0).sum())
    return f"{zeros} losses are exactly 0" if zeros >= 3 else None


def first_step_too_high(case: Case) -> str | None:
    """A single loss far above its neighbours, right after the start or a restart."""
    loss = case.curve.loss
    for index in case.curve.restarts:
        before, after = loss[max(0, index - 4) : index], loss[index + 1 : index + 5]
        if len(before) < 3 or len(after) < 2 or not np.isfinite(loss[index - len(before) : index + 1]).all():
            continue
        usual = float(np.median(before))
        high = usual + max(4 * float(np.median(np.abs(np.diff(before)))), 0.1 * usual)
        if loss[index] > high and np.nanmedian(after) < (usual + loss[index]) / 2:
            return f"step {case.curve.step[index]}, the first after a restart, has {loss[index]:.3g} after {usual:.3g}"
    after = loss[1:8]
    if len(after) < 5 or not np.isfinite(loss[:8]).all():
        return None
    usual_change = float(np.median(np.abs(np.diff(after))))
    if loss[0] - loss[1] > max(8 * usual_change, 0.5):
        return f"the first step has {loss[0]:.3g}, those after it {np.median(after):.3g}"
    return None


def does_not_learn(case: Case) -> str | None:
    """Twelve finite losses or more without a downward trend (Spearman's rank correlation, one-sided 5 %)."""
    curve = case.curve
    if len(curve) < 12 or len(_broken(case)) or stuck(case) or climbs(case) or np.ptp(curve.loss) == 0:
        return None
    trend = stats.spearmanr(curve.step, curve.loss, alternative="less")
    if trend.pvalue < 0.05:
        return None
    return f"no downward trend in {len(curve)} steps (rank correlation {trend.statistic:+.2f})"


def untrained_level(case: Case) -> str | None:
    if not case.vocabulary or does_not_learn(case) is None:
        return None
    level, guess = float(np.median(case.curve.loss)), math.log(case.vocabulary)
    return f"the loss stays at {level:.3g}; guessing gives {guess:.3g}" if level > 0.95 * guess else None


def silent(case: Case) -> str | None:
    """Nothing heard for 20 times the longest step, and for 10 s at least."""
    if case.silence is None:
        return None
    gaps = np.diff(case.curve.time)
    gaps = np.delete(gaps, [index - 1 for index in case.curve.restarts])
    known = gaps[np.isfinite(gaps)]
    limit = max(SILENCE * float(known.max()), SILENCE_SECONDS) if len(known) else SILENCE_BEFORE_FIRST
    return f"nothing was heard for {case.silence:.0f} s" if case.silence > limit else None


SIGNS: dict[str, Callable[[Case], str | None]] = {
    "broken at once": broken_at_once,
    "broken later": broken_later,
    "stays broken": stays_broken,
    "comes and goes": comes_and_goes,
    "climbs": climbs,
    "gradient grows": gradient_grows,
    "stuck": stuck,
    "no gradient": no_gradient,
    "uniform guess": uniform_guess,
    "zero loss": zero_loss,
    "first step too high": first_step_too_high,
    "does not learn": does_not_learn,
    "untrained level": untrained_level,
    "silent": silent,
}


# What is known of a run.


def open_case(path: Path, known: Known | None = None, now: float = math.nan) -> Case:
    """The case of a run directory of ours, or of a foreign curve of which `known` is known. Raises HarnessError.

    `now` (unix seconds) is when the run was looked at; NaN where that is not known.
    """
    if (path / "run.json").is_file():
        return _own_case(RunDirectory(path), now)
    known = known or Known()
    return Case(
        source=str(path),
        curve=read_curve(path),
        hpz=None if known.config is None else known.setup(OLD_COPY).hpz > 1,
        exposed=known.exposures(),
        vocabulary=known.vocabulary,
        loss_scaling=None if known.config is None else bool((known.config.get("fp16") or {}).get("enabled")),
    )


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a user knows of a foreign run; each part may be missing."""

    config: dict[str, Any] | None = None
    """The DeepSpeed JSON configuration."""
    release: str | None = None
    world_size: int | None = None
    ranks_per_node: int | None = None
    numels: tuple[int, ...] | None = None
    vocabulary: int | None = None

    def setup(self, release: str) -> Setup:
        return Setup(
            release=release,
            config=self.config or {},
            world_size=self.world_size,
            ranks_per_node=self.ranks_per_node,
            numels=self.numels,
        )

    def exposures(self) -> dict[str, Exposure]:
        """The answer for each known fault; `unknown` where the missing half would decide. Raises HarnessError."""
        if self.config is None and self.release is None:
            return {}
        return {fault.name: self._exposure(fault) for fault in KNOWN_FAULTS}

    def _exposure(self, fault: Fault) -> Exposure:
        # A fault's first release has it, so that the configuration alone answers there.
        asked = {one.fault: one for one in exposures(self.setup(self.release or fault.first))}[fault.name]
        if self.config is not None and (self.release is not None or asked.exposed == "no"):
            return asked
        if self.config is None and not self.setup(self.release or "").within(fault.first, fault.end):
            return _no(asked, f"{self.release} does not have it")
        lacking = "--config" if self.config is None else "--release"
        return replace(asked, exposed="unknown", reason=f"give {lacking}: it decides")


def _own_case(directory: RunDirectory, now: float) -> Case:
    run = directory.run()
    try:
        curve = read_curve(directory.path)
    except HarnessError:
        if directory.steps_file.exists() and directory.steps_file.stat().st_size:
            raise
        curve = Curve(step=np.empty(0, np.int64), loss=np.empty(0), grad_norm=np.empty(0), time=np.empty(0))
    return Case(
        source=str(directory.path),
        curve=curve,
        hpz=Variant.parse(run.variant).hpz,
        exposed=exposures_of_run(run),
        vocabulary=ModelFile.model_validate(run.model_spec).config.vocab_size,
        loss_scaling=False,
        silence=_silence(directory, curve, now),
    )


def exposures_of_run(run: Run) -> dict[str, Exposure]:
    """What a run of ours is exposed to: as its release, but for what its variant changes, and for its device."""
    model = ModelFile.model_validate(run.model_spec)
    setup = Setup(
        release=run.release,
        config=run.deepspeed,
        world_size=run.shape.world_size,
        ranks_per_node=run.shape.ranks_per_node,
        numels=tuple(math.prod(shape) for _, shape in parameter_shapes(model)),
    )
    found = {one.fault: one for one in exposures(setup)}
    old = {one.fault: one for one in exposures(replace(setup, release=OLD_COPY))}
    variant = Variant.parse(run.variant)
    if variant.hpz:
        why = f"variant {variant.name}: "
        found["race"] = (
            old["race"] if variant.order == "none" else _no(old["race"], why + "orders the copy first")
        )
        found["missing copy"] = (
            old["missing copy"]
            if variant.copy == "old"
            else _no(old["missing copy"], why + "the new copy writes all")
        )
    if run.device == "cpu":
        found["race"] = _no(found["race"], "a CPU has no streams: everything runs in program order")
    return found


def _no(exposure: Exposure, reason: str) -> Exposure:
    return replace(exposure, exposed="no", reason=reason, way_out="")


def _silence(directory: RunDirectory, curve: Curve, now: float) -> float | None:
    """Seconds from the last sign of life to the end of a run that was ended from outside, or to `now`."""
    status = directory.status()
    heard = [_unix(status.started_utc), _unix(status.heartbeat_utc), *curve.time[-1:]]
    last = max((moment for moment in heard if math.isfinite(moment)), default=math.nan)
    end = {"running": now, "timed-out": _unix(status.ended_utc)}.get(status.state, math.nan)
    return end - last if math.isfinite(end - last) else None


def _unix(utc: str | None) -> float:
    return datetime.fromisoformat(utc).timestamp() if utc else math.nan
