"""Which recorded run stands for which planned one, and which pairs can be judged at all.

A planned run is matched with a recorded one by everything that was asked for. The patch files' hashes are left out of
that, so that results stay readable after a patch file changed; which hashes really ran is in the record.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.collect.collect import Collected
from analysis.judge.band import Floats
from analysis.judge.convergence import Curve, first
from harness.study import Run, Study

NEEDED = (
    "step",
    "loss",
    "grad_norm",
    "step_seconds",
    "secondary_gathers",
    "host_syncs",
    "device_seconds",
    "host_blocked_seconds",
    "bytes_intra",
    "bytes_inter",
    "batch_hash",
    "wire_bytes",
    "wire_bytes_predicted",
    "tokens",
    "forward_seconds",
    "backward_seconds",
    "optimizer_seconds",
    "exposed_comm_seconds",
    "memory_allocated",
    "memory_reserved",
    "validation_loss",
)
COMMON = ("step", "batch_hash")  # equal in many runs


@dataclass(frozen=True, eq=False)
class Recorded:
    """One recorded run with its steps: arrays of shape (steps,) by column name."""

    run_id: str
    run: Run
    row: Mapping[str, Any]
    record: Mapping[str, Any]
    columns: Mapping[str, Floats]

    @property
    def curve(self) -> Curve:
        return Curve(self.columns["loss"], self.columns["grad_norm"])

    def steady(self, column: str, warmup: int) -> Floats:
        """A column without the first steps; all of it when the run is no longer than the warm-up."""
        values = self.columns[column]
        return values[warmup:] if len(values) > warmup else values

    @property
    def versions(self) -> Mapping[str, str | None]:
        """Package versions that can change a number; wandb mirrors what was recorded."""
        versions = self.record.get("versions") or {}
        return {name: version for name, version in versions.items() if name != "wandb"}

    @property
    def card(self) -> str | None:
        """The name of rank 0's GPU; None where there is none or nobody wrote it down."""
        found = json.loads(self.row["status"] or "{}").get("gpu")
        return str(found) if found else None

    @property
    def only_analysed(self) -> bool:
        """Whether the run was never trained to its end, for its races alone were wanted."""
        return self.row["state"] == "pending" and bool(self.row["races"])

    @cached_property
    def unfit(self) -> str | None:
        """Why the run cannot be judged; None if it can."""
        steps = self.columns["step"]
        if self.row["state"] != "done":
            why = f": {self.row['reason']}" if self.row["reason"] else ""
            return f"{self.row['state']} after {len(steps)} of {self.run.training.steps} steps{why}"
        if len(steps) == 0:
            return "done, but it recorded no step"
        gap = np.flatnonzero(steps != np.arange(len(steps)))
        return f"step {int(gap[0])} of its record could not be read" if gap.size else None


@dataclass(frozen=True, eq=False)
class Pair:
    """A planned pair and what was recorded of it; `reason` says why it cannot be judged, or is None."""

    run: Run
    baseline: Run
    recorded: Recorded | None
    recorded_baseline: Recorded | None
    reason: str | None

    @property
    def run_id(self) -> str:
        return self.recorded.run_id if self.recorded else self.run.run_id

    @property
    def baseline_run_id(self) -> str:
        return self.recorded_baseline.run_id if self.recorded_baseline else self.baseline.run_id


@dataclass(frozen=True, eq=False)
class Matched:
    """A study with what was recorded of it."""

    study: Study
    recorded: Mapping[str, Recorded]  # by run id
    of: Mapping[str, Recorded]  # planned run id → recorded run
    siblings: Mapping[str, list[Recorded]]  # runs equal but for the seed, by key

    @cached_property
    def pairs(self) -> list[Pair]:
        return [self._pair(run, baseline) for run, baseline in self.study.pairs]

    def _pair(self, run: Run, baseline: Run) -> Pair:
        ours, theirs = self.of.get(run.run_id), self.of.get(baseline.run_id)
        reason = _why_not(ours, theirs)
        for whose, one in (("", ours), ("its baseline: ", theirs)):
            if one and not reason and (odd := self.odd_patches(one)):
                reason = f"{whose}used other patches than most runs of {one.run.variant}: {', '.join(odd)}"
        return Pair(run, baseline, ours, theirs, reason)

    def odd_patches(self, recorded: Recorded) -> Mapping[str, str]:
        """The run's patches where they are not those of most runs of its variant and release; else empty."""
        ours = recorded.run.patches
        return ours if ours != self._usual_patches[recorded.run.variant, recorded.run.release] else {}

    @cached_property
    def _usual_patches(self) -> dict[tuple[str, str], dict[str, str]]:
        counts: dict[tuple[str, str], Counter[str]] = {}
        for one in self.of.values():
            counts.setdefault((one.run.variant, one.run.release), Counter())[json.dumps(one.run.patches)] += 1
        return {key: json.loads(count.most_common(1)[0][0]) for key, count in counts.items()}

    @property
    def not_run(self) -> list[tuple[Run, str]]:
        """Planned runs that are missing or unfit, each with the reason; not those analysed for races alone."""
        found = ((run, self.of.get(run.run_id)) for run in self.study.runs)
        return [
            (run, reason)
            for run, recorded in found
            if (reason := _unfit(recorded)) and not (recorded and recorded.only_analysed)
        ]

    @property
    def strays(self) -> list[str]:
        """Recorded runs that the study does not ask for."""
        used = {recorded.run_id for recorded in self.of.values()}
        return [run_id for run_id in self.recorded if run_id not in used]

    def seeds_of(self, recorded: Recorded) -> list[Recorded]:
        """One judgeable run a seed that differs from `recorded` in the seed alone, itself included."""
        alike = (
            other
            for other in self.siblings[_key(recorded.run, "seed")]
            if not other.unfit
            and other.run.patches == recorded.run.patches
            and other.versions == recorded.versions
        )
        return list({**{other.run.seed: other for other in alike}, recorded.run.seed: recorded}.values())


def few_seeds(pairs: Iterable[Pair], limit: int = 5) -> list[Pair]:
    """The pairs of the first `limit` seeds of each cell: what can still be looked at in one picture."""
    seeds: dict[tuple[str, ...], int] = {}
    few = []
    for pair in sorted(pairs, key=lambda pair: pair.run.seed):
        run = pair.run
        cell = (
            run.model,
            run.variant,
            str(run.shape),
            run.device,
            run.schedule,
            run.poison,
            str(run.training),
            str(run.deepspeed),
        )
        seeds[cell] = seeds.get(cell, 0) + 1
        if seeds[cell] <= limit:
            few.append(pair)
    return few


def match(study: Study, collected: Collected) -> Matched:
    """Find the recorded run of each planned one; of several candidates the one with the planned id is taken."""
    recorded = {one.run_id: one for one in _recorded_runs(collected)}
    # A study that leaves the release to the machine it runs on is read on another machine, too.
    stated = study.release is not None or any("release" in block for block in study.matrix)
    unsure = () if stated else ("release",)
    by_key: dict[str, Recorded] = {}
    siblings: dict[str, list[Recorded]] = {}
    for one in recorded.values():
        by_key.setdefault(_key(one.run, *unsure), one)
        siblings.setdefault(_key(one.run, "seed"), []).append(one)
    of = {
        run.run_id: found
        for run in study.runs
        if (found := recorded.get(run.run_id) or by_key.get(_key(run, *unsure))) is not None
    }
    return Matched(study, recorded, of, siblings)


def _recorded_runs(collected: Collected) -> Iterator[Recorded]:
    shared: dict[tuple[str, bytes], Floats] = {}
    steps = {
        run_id: {name: _held(name, table[name].to_numpy(), shared) for name in NEEDED}
        for run_id, table in collected.by_run(NEEDED)
    }
    none: dict[str, Floats] = dict.fromkeys(NEEDED, np.empty(0))
    rows = collected.runs.astype(object).where(collected.runs.notna(), None).to_dict("records")
    for row in rows:
        record = json.loads(row["record"])
        yield Recorded(
            run_id=row["run_id"],
            run=Run.model_validate(record["run"]),
            row={str(key): value for key, value in row.items()},
            record=record,
            columns=steps.get(row["run_id"], none),
        )


def _held(name: str, values: Floats, shared: dict[tuple[str, bytes], Floats]) -> Floats:
    """The same values of shape (steps,), to be read only, in less memory: millions of steps are held at a time.

    What never changes, as many counters do, is held as one number, what many runs have in common is held once, and
    integers are as narrow as they fit.
    """
    bits = values.view(f"i{values.itemsize}")
    if len(values) and (bits == bits[0]).all():
        return np.broadcast_to(values[0], values.shape)
    narrow = values.dtype.kind == "i" and np.abs(values).max(initial=0) < 2**31
    copy: Floats = values.astype(
        "i4" if narrow else values.dtype
    )  # so that the table that it came from can go
    return shared.setdefault((copy.dtype.str, copy.tobytes()), copy) if name in COMMON else copy


def _key(run: Run, *but: str) -> str:
    """What was asked for, as text, without the fields of `but`."""
    content = run.model_dump(mode="json", exclude={"study", "patches", *but})
    content["data"] = {name: value for name, value in run.data.identity.items() if name != "path"}
    return json.dumps(content, sort_keys=True)


def _unfit(recorded: Recorded | None) -> str | None:
    return "not started" if recorded is None else recorded.unfit


def _why_not(run: Recorded | None, baseline: Recorded | None) -> str | None:
    """Why a pair cannot be judged; None if it can."""
    if reason := _unfit(run):
        return reason
    if reason := _unfit(baseline):
        return f"its baseline: {reason}"
    assert run is not None and baseline is not None
    if differing := _differing_versions(run, baseline):
        return f"run and baseline used different versions: {differing}"
    if len(run.curve) != len(baseline.curve):
        return f"run and baseline have {len(run.curve)} and {len(baseline.curve)} steps"
    ours, theirs = (one.columns["batch_hash"].astype(float) for one in (run, baseline))
    other = first((ours != theirs) & np.isfinite(ours) & np.isfinite(theirs))
    if other is not None:
        return f"run and baseline saw different batches, first at step {other}"
    digests = {one.row.get("batches_sha256") for one in (run, baseline)} - {None}
    return "run and baseline saw different batches on a rank other than 0" if len(digests) > 1 else None


def _differing_versions(run: Recorded, baseline: Recorded) -> str:
    ours, theirs = run.versions, baseline.versions
    names = sorted({*ours, *theirs})
    return ", ".join(f"{n} {ours.get(n)} and {theirs.get(n)}" for n in names if ours.get(n) != theirs.get(n))


def mean_or_none(values: Floats) -> float | None:
    """Mean of what is there; None where nothing is."""
    present = values[~pd.isna(values)]
    return float(present.mean()) if present.size else None
