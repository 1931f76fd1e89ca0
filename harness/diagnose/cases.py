"""The case of a triage: a curve, and what is known of the run that made it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.configuration import FIRST
from harness.diagnose.curve import Curve, empty_curve
from harness.diagnose.faults import Exposure, exposures
from harness.diagnose.read import Given, read_curve, read_curves, read_named, read_setup
from harness.diagnose.read.source import STANDARD_INPUT
from harness.diagnose.setup import Setup
from harness.record import RunDirectory
from harness.study import ModelFile, Run, any_model, parameter_shapes
from harness.variants import Variant

OLD_COPY = "0.13.4"  # the last release with the race and the old copy


@dataclass(frozen=True, kw_only=True)
class Case:
    """A curve and what is known of its run; what is not known is None or empty."""

    source: str
    curve: Curve
    other: Curve | None = None
    """Of a second run with the same settings, seed and data."""
    hpz: bool | None = None
    exposed: Mapping[str, Exposure] = field(default_factory=dict)
    vocabulary: int | None = None
    loss_scaling: bool | None = None
    """Whether it trains in fp16, where steps with an infinite gradient norm are skipped as a matter of course."""
    setup: Setup | None = None
    """Release and settings, as far as they are known."""
    silence: float | None = None
    """Seconds since the run was last heard of, where it has not ended by itself."""


def open_case(path: Path, known: Known | None = None, now: float = math.nan) -> Case:
    """The case of a run directory of ours, or of a foreign curve of which `known` is known. Raises HarnessError.

    `now` (unix seconds) is when the run was looked at; NaN where that is not known.
    """
    if (path / "run.json").is_file():
        return _own_case(RunDirectory(path), now)
    known = known or Known()
    return case_of(read_curve(path), known.setup(), str(path), known.vocabulary)


def open_cases(path: Path, config: Path | None, given: Given, run: str | None = None) -> list[Case]:
    """A case for every foreign run in a file, a folder or standard input (`-`), or the one named `run`. HarnessError.

    What its log says of a run fills in what neither the configuration nor the command line does.
    """
    curves = read_curves(path) if run is None else [read_named(path, run, "--run")]
    source = "standard input" if path == STANDARD_INPUT else str(path)
    vocabulary = any_model(given.model).config.vocab_size if given.model else None
    cases = []
    for curve in curves:
        named = f"{source}: {curve.name}" if curve.name else source
        cases.append(case_of(curve, read_setup(config, given, curve.told), named, vocabulary))
    return cases


def case_of(curve: Curve, setup: Setup, source: str, vocabulary: int | None = None) -> Case:
    """The case of a foreign curve and what is known of its run."""
    return Case(
        source=source,
        curve=curve,
        hpz=setup.hpz > 1 if setup.has_config else None,
        exposed=_exposures(setup),
        vocabulary=vocabulary,
        loss_scaling=curve.told.scaled if setup.dtype is None else setup.dtype == "fp16",
        setup=setup,
    )


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a user knows of a foreign run; each part may be missing."""

    config: dict[str, Any] | None = None
    """DeepSpeed's keys, as DeepSpeed takes them."""
    release: str | None = None
    world_size: int | None = None
    ranks_per_node: int | None = None
    numels: tuple[int, ...] | None = None
    vocabulary: int | None = None
    torch: str | None = None
    facts: frozenset[str] = frozenset()

    def setup(self) -> Setup:
        return Setup(
            release=self.release,
            config=self.config or {},
            has_config=self.config is not None,
            world_size=self.world_size,
            ranks_per_node=self.ranks_per_node,
            numels=self.numels,
            torch=self.torch,
            facts=self.facts,
        )

    def exposures(self) -> dict[str, Exposure]:
        """The answer for each known fault; empty where nothing is known. Raises HarnessError."""
        return _exposures(self.setup())


def _exposures(setup: Setup) -> dict[str, Exposure]:
    """The answer for each fault that settings decide; empty where nothing is known. Raises HarnessError."""
    if not setup.has_config and setup.release is None:
        return {}
    return {one.fault: one for one in exposures(setup)}


def _own_case(directory: RunDirectory, now: float) -> Case:
    run = directory.run()
    file = directory.steps_file
    curve = read_curve(directory.path) if file.exists() and file.stat().st_size else empty_curve()
    return Case(
        source=str(directory.path),
        curve=curve,
        hpz=Variant.parse(run.variant).hpz,
        exposed=exposures_of_run(run),
        setup=setup_of_run(run),
        vocabulary=ModelFile.model_validate(run.model_spec).config.vocab_size,
        loss_scaling=False,
        silence=_silence(directory, curve, now),
    )


def exposures_of_run(run: Run) -> dict[str, Exposure]:
    """What a run of ours is exposed to: as its release, but for what its variant changes, and for its device."""
    setup = setup_of_run(run)
    found = {one.fault: one for one in exposures(setup)}
    # Up to then each release has the old copy and no order itself, and its own answer.
    old_setup = setup if setup.within(FIRST, OLD_COPY) else replace(setup, release=OLD_COPY)
    old = {one.fault: one for one in exposures(old_setup)}
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


def setup_of_run(run: Run) -> Setup:
    """Release and settings of a run of ours. Its script loads weights only from checkpoints, and builds one model."""
    model = ModelFile.model_validate(run.model_spec)
    return Setup(
        release=run.release,
        config=run.deepspeed,
        world_size=run.shape.world_size,
        ranks_per_node=run.shape.ranks_per_node,
        numels=tuple(math.prod(shape) for _, shape in parameter_shapes(model)),
        facts=frozenset({"loads weights"} if run.training.checkpoint_every else ()),
        facts_read=True,
    )


def _no(exposure: Exposure, reason: str) -> Exposure:
    return exposure.model_copy(update={"exposed": "safe by setting", "reason": reason, "way_out": ""})


def _silence(directory: RunDirectory, curve: Curve, now: float) -> float | None:
    """Seconds from the last sign of life to the end of a run that was ended from outside, or to `now`."""
    status = directory.status()
    heard = [_unix(status.started_utc), _unix(status.heartbeat_utc), *curve.time[-1:]]
    last = max((moment for moment in heard if math.isfinite(moment)), default=math.nan)
    end = {"running": now, "timed-out": _unix(status.ended_utc)}.get(status.state, math.nan)
    return end - last if math.isfinite(end - last) else None


def _unix(utc: str | None) -> float:
    return datetime.fromisoformat(utc).timestamp() if utc else math.nan
