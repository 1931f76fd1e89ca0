"""Writes run directories in the documented format, with made-up numbers, for tests of everything after collection."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import harness.record.directory
import harness.study.study
from analysis.draw.figure import Figure
from harness.record import RunDirectory, StepRecord, StepWriter
from harness.study import Run, Study, save_study
from harness.system.places import REPOSITORY
from harness.system.whole_file import write_json


def toy_model(name: str = "llama2-toy") -> dict[str, Any]:
    """The content of a shipped model file."""
    content: dict[str, Any] = yaml.safe_load(
        (REPOSITORY / "experiments" / "models" / f"{name}.yaml").read_text()
    )
    return content


STUDY: dict[str, Any] = {
    "name": "made-up",
    "question": "Which variant can be trusted?",
    "release": "0.19.8",
    "training": {"steps": 12},
    "rule": {"warmup_steps_dropped": 2, "final_window": 3, "minimum_seeds": 3, "stuck_steps": 4},
    "baseline": {"variant": "zero3", "policy": "eager"},
    "matrix": [
        {
            "model": "toy",
            "variant": ["stock", "unordered", "fixed", "event"],
            "shape": "2x2-hpz2",
            "policy": ["eager", "side-first"],
        },
        {"model": "toy", "variant": "zero3", "shape": "2x2", "seed": [1, 2, 3]},
    ],
    "models": {"toy": toy_model()},
}


def fake_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch hashes and a commit that depend on no file, so that these tests stand on their own."""

    def hashes(variant: Any, release: str) -> dict[str, str]:
        digest = hashlib.sha256(variant.name.encode()).hexdigest()
        return {} if variant.name in ("zero3", "fixed") else {f"{variant.name}.patch": digest}

    monkeypatch.setattr(harness.record.directory, "git_state", lambda: {"commit": "c" * 40, "dirty": False})
    monkeypatch.setattr(harness.study.study, "patch_hashes", hashes)
    monkeypatch.setattr(harness.study.study, "default_release", lambda: "0.19.8")


def draw_svg_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test reads the page: png and pdf take two thirds of the time, and the tests of figures look at them."""
    monkeypatch.setattr(Figure, "write", partialmethod(Figure.write, formats=("svg",)))


@pytest.fixture
def svg_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `draw_svg_alone`."""
    draw_svg_alone(monkeypatch)


@pytest.fixture
def made_up_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `fake_patches`."""
    fake_patches(monkeypatch)


@dataclass
class Curve:
    """What a made-up run records; every series has one value a step."""

    loss: Sequence[float]
    grad_norm: Sequence[float] | None = None
    secondary_gathers: int = 30
    host_syncs: int | None = 6
    bytes_inter: int = 1000
    step_seconds: Sequence[float] = field(default_factory=lambda: [0.1])

    def records(self) -> list[StepRecord]:
        norms = self.grad_norm if self.grad_norm is not None else [0.5 * loss for loss in self.loss]
        return [
            StepRecord(
                step=step,
                loss=float(loss),
                grad_norm=float(norm),
                lr=1e-3,
                tokens=256,
                step_seconds=float(self.step_seconds[step % len(self.step_seconds)]),
                secondary_gathers=self.secondary_gathers,
                host_syncs=self.host_syncs,
                bytes_intra=2000,
                bytes_inter=self.bytes_inter,
                skipped=False,
                batch_hash=step,
            )
            for step, (loss, norm) in enumerate(zip(self.loss, norms, strict=True))
        ]


def healthy(run: Run) -> list[float]:
    """A falling loss that depends on the seed alone."""
    noise = np.random.default_rng(run.seed).normal(0, 0.02, run.training.steps)
    return [float(x) for x in 2 + 3 * np.exp(-np.arange(run.training.steps) / 5) + noise]


def as_known(run: Run) -> Curve:
    """Curves as the fault makes them: stock and unordered break under any order but the eager one."""
    loss = healthy(run)
    hpz, racing = run.shape.hpz > 1, run.policy not in ("eager", "native")
    syncs = 30 if run.variant == "fixed" else 6
    if run.variant == "stock" and racing:
        loss[4:] = [float("nan")] * (len(loss) - 4)
    if run.variant == "unordered" and racing:
        loss[3:] = [value + 2.0 for value in loss[3:]]
    return Curve(loss, secondary_gathers=30 if hpz else 0, host_syncs=syncs)


def write_run(folder: Path, run: Run, curve: Curve, state: str = "done") -> RunDirectory:
    """One run directory; `state` other than done leaves it without its final record."""
    directory = RunDirectory(folder / "runs" / run.run_id)
    directory.create(run)
    writer = StepWriter(directory.steps_file)
    for record in curve.records():
        writer.write(record)
    writer.close()
    final = (
        {"steps": len(curve.loss), "skipped_steps": 0, "shards_sha256": "0" * 64} if state == "done" else None
    )
    write_json(
        directory.status_file,
        {"schema_version": 1, "state": state, "attempts": 1, "final": final, "reason": None},
    )
    return directory


def write_study(folder: Path, curve: Callable[[Run], Curve | None] = as_known, **changes: Any) -> Study:
    """A results folder with every run of a study; a run whose curve is None is left out."""
    study = Study.model_validate({**STUDY, **changes})
    save_study(study, folder)
    for run in study.runs:
        if (made_up := curve(run)) is not None:
            write_run(folder, run, made_up)
    return study
