"""Ranks that share a real GPU: collectives through gloo, the window, stalls, whole runs and the witnesses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from harness.device.stall import StallCopies, cycles_per_microsecond
from harness.device.witness import Sanitizer
from harness.launch.local import run_study
from harness.study import load_study
from tests.conftest import StudyFile
from tests.gpu.ranks import run_ranks

ONE_GPU = {"CUDA_VISIBLE_DEVICES": "0"}


def test_gloo_carries_every_collective_on_gpu_memory() -> None:
    for output in run_ranks(["tests.gpu.collective_ranks", "cuda"], world=3, **ONE_GPU):
        assert output.strip().splitlines()[-1].startswith("ok all_reduce"), output


def test_a_gather_is_ordered_after_its_own_stream_and_not_after_the_compute_stream() -> None:
    for output in run_ranks(["tests.gpu.window_ranks"], world=2, **ONE_GPU):
        said = output.strip().splitlines()[-3:]
        assert said == ["unordered old", "ordered new", "gpu 0 LOCAL_RANK 0"], output


def test_a_stall_lasts_as_long_as_it_says() -> None:
    stall_us = 2000
    mode = StallCopies(stall_us * cycles_per_microsecond())
    source, target = torch.ones(8, device="cuda"), torch.zeros(8, device="cuda")
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with mode:
        target.copy_(source)  # the first of its kind loads its kernel, which takes seconds on a fresh machine
        before.record()
        target.copy_(source)
        after.record()
    after.synchronize()
    assert mode.stalls == 2
    assert before.elapsed_time(after) * 1e3 == pytest.approx(stall_us, rel=0.25)


def test_copies_on_other_streams_or_to_the_host_are_not_stalled() -> None:
    mode, source = StallCopies(1000), torch.ones(8, device="cuda")
    with mode, torch.cuda.stream(torch.cuda.Stream()):
        torch.empty_like(source).copy_(source)
    with mode:
        torch.empty(8).copy_(source)
    assert mode.stalls == 0


def test_a_stall_reaches_the_backward_pass() -> None:
    class CopyBack(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: object, *grads: torch.Tensor) -> torch.Tensor:
            return torch.empty_like(grads[0]).copy_(2 * grads[0])

    mode, x = StallCopies(1000), torch.ones(3, device="cuda", requires_grad=True)
    with mode:
        CopyBack.apply(x).sum().backward()
    assert mode.stalls >= 1


@pytest.mark.parametrize("ordered", [False, True])
def test_the_sanitizer_sees_a_missing_order_and_no_more(tmp_path: Path, ordered: bool) -> None:
    x, side = torch.zeros(64, device="cuda"), torch.cuda.Stream()
    torch.cuda.synchronize()
    with Sanitizer(tmp_path, rank=0):
        x.copy_(torch.ones(64, device="cuda"))
        if ordered:
            side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cat([x, x])
    torch.cuda.synchronize()
    findings = json.loads((tmp_path / "witness-0.json").read_text())["findings"]
    assert bool(findings) != ordered


@pytest.mark.slow
def test_four_ranks_train_on_one_gpu_and_the_fix_is_exact(study_file: StudyFile, tmp_path: Path) -> None:
    study = load_study(study_file(device="cuda", virtual_nodes=True, launch={"timeout_seconds": 120}))
    statuses = run_study(study, tmp_path / "results", witness="profile")
    assert [status.state for status in statuses] == ["done", "done"], statuses
    curves = {}
    for run in study.runs:
        folder = tmp_path / "results" / "runs" / run.run_id
        record = json.loads((folder / "run.json").read_text())
        assert record["evidence"] == "one-gpu"
        steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
        assert all(step["device_seconds"] > 0 and step["host_blocked_seconds"] >= 0 for step in steps)
        curves[run.variant] = [(step["loss"], step["grad_norm"]) for step in steps]
        if run.variant == "fixed":
            assert steps[-1]["secondary_gathers"] > 0 and steps[-1]["host_syncs"] > 0
            trace = gzip.decompress((folder / "profile-0.json.gz").read_bytes())
            assert any(e.get("cat") == "kernel" for e in json.loads(trace)["traceEvents"])
    assert curves["fixed"] == curves["zero3"]


def test_launches_events_waits_and_copies_are_measured() -> None:
    from harness.simulate.measure import measure_gpu

    found = measure_gpu()
    assert 0 < found["event_seconds"] < found["launch_seconds"] * 10 < 1e-2
    assert found["to_host_bandwidth"] > 1e9 and found["to_device_bandwidth"] > 1e9
