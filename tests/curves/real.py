"""Curves of real DeepSpeed ranks on the virtual device: the runs that tests/deepspeed/diagnose judges, more seeds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from harness.diagnose.read import read_curve
from harness.launch import launcher
from harness.variants import NAMED
from tests.deepspeed.diagnose import test_triage_real as runs
from tests.releases import overlay_of

RIGHT: dict[str, tuple[str, ...]] = {
    "race": ("race",),
    "missing copy": ("missing copy",),
    "stale after load": ("dirty after load",),
    "stale from the start": ("stale secondary",),
    "offload": ("offload",),
    "plain instability": ("plain instability",),
    "healthy, offloaded": (),
}
RELEASE = {
    "race": "0.13.4",
    "missing copy": "0.13.4",
    "stale after load": "0.18.0",
    "stale from the start": "0.13.1",
    "offload": "0.16.2",
    "plain instability": "0.19.8",
    "healthy, offloaded": "0.19.8",
}
"""The release that has the fault, as its user would say; the runs are of 0.19.8 or 0.18.0, patched."""


def real(seed: int) -> list[dict[str, Any]]:
    """Every run of RIGHT with a seed: name, what names it rightly, what is known, and its rows."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "MATRIX", {key: {**block, "seed": seed} for key, block in runs.MATRIX.items()})
        overlay_of(NAMED["fixed"], "0.18.0")
        bench = runs.Bench(Path(name))
        bench.launch("race", "missing copy", "plain instability", "healthy, offloaded", "stale after load")
        load = bench.directory("stale after load")
        load.update_status(state="interrupted", final=None)  # it goes on from the checkpoint after step 8
        with pytest.MonkeyPatch.context() as forgetful:
            forgetful.setattr(launcher, "SERVER", "tests.deepspeed.launch.forgetful_server")
            bench.launch("stale after load")
        overlay = runs.planted(Path(name) / "overlay")
        with pytest.MonkeyPatch.context() as planting:
            planting.setattr(launcher, "_overlay", lambda *_: overlay)
            bench.launch("stale from the start", "offload")
        return [_record(bench, key) for key in RIGHT]


def _record(bench: runs.Bench, name: str) -> dict[str, Any]:
    run, curve = bench.studies[name].runs[0], read_curve(bench.directory(name).path)
    rows = [
        {
            "step": int(step),
            "loss": float(f"{loss:.6g}"),
            "grad_norm": float(f"{norm:.5g}"),
            "_timestamp": time,
        }
        for step, loss, norm, time in zip(
            curve.step, curve.loss, curve.grad_norm, (curve.time - curve.time[0]).round(2), strict=True
        )
    ]
    known = {
        "config": run.deepspeed,
        "release": RELEASE[name],
        "world_size": run.shape.world_size,
        "ranks_per_node": run.shape.ranks_per_node,
        "vocabulary": run.model_spec["config"]["vocab_size"],
        "facts": ["loads weights"] if name == "stale after load" else [],
    }
    return {"name": name, "right": RIGHT[name], "known": known, "rows": rows}
