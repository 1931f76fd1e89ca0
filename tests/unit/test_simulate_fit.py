"""Calibration fits what was made up; published entries are whole; the timed policy keeps the clock's order."""

from __future__ import annotations

import io
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from harness.device import open_device
from harness.device.policies import parse_policy
from harness.device.streams import Event, Machine, Stream, StreamContext, use
from harness.errors import HarnessError
from harness.simulate import measure
from harness.simulate.calibrate import Calibration, Sample, fit_factor, fit_roofline, profile_yaml, roofline
from harness.simulate.hardware import find, read_profiles
from harness.simulate.timed import Timed
from harness.simulate.validate import NOT_VALIDATED, Measured, published
from harness.study import Run
from tests.simulated_help import A100


def test_the_roofline_that_made_the_samples_is_found_again() -> None:
    truth = (5e10, 2e10, 3e-6)
    shapes = [(f, b, False) for f, b in ((1e6, 1e4), (1e8, 1e6), (1e10, 1e7), (0, 1e4), (0, 1e6), (0, 1e8))]
    samples: list[dict[str, Any]] = [{"flops": f, "bytes": b, "held_out": h} for f, b, h in shapes]
    for sample in samples:
        sample["seconds"] = roofline(sample, *truth)
    assert fit_roofline(samples) == pytest.approx(truth, rel=0.01)


def test_held_out_samples_are_not_fitted() -> None:
    good: dict[str, Any] = {"flops": 0, "bytes": 1e8, "seconds": 1e-2, "held_out": False}
    samples = [good, {**good, "bytes": 1e6, "seconds": 1e-4}, {**good, "seconds": 5.0, "held_out": True}]
    _, bandwidth, _ = fit_roofline(samples)
    assert bandwidth == pytest.approx(1e10, rel=0.05)


def test_the_host_factor_is_the_median_ratio() -> None:
    assert fit_factor(np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 40.0])) == 2.0


def test_a_calibration_says_its_errors_and_writes_a_profile(tmp_path: Any) -> None:
    host = find("hosts", "server")
    samples = (Sample("a", 1.0, 1.1, False), Sample("b", 1.0, 0.7, True))
    found = Calibration("cpu", 1e10, 1e10, 1e-6, host, samples, samples)
    errors = found.record()["errors"]["steps"]
    assert errors == {"fitted": pytest.approx(0.1), "held_out": pytest.approx(0.3)}
    (tmp_path / "hosts.yaml").write_text(profile_yaml(found))
    assert read_profiles(tmp_path / "hosts.yaml", "hosts")["this-machine"] == host
    assert len(found.describe()) == 2
    assert yaml.safe_load(profile_yaml(found))


def test_published_entries_are_whole_and_their_unknowns_named() -> None:
    entries = {entry.id: entry for entry in published()}
    assert entries["deepspeed-4906"].measured == {
        "baseline_samples_per_second": 17.57,
        "samples_per_second": 24.12,
    }
    for entry in entries.values():
        assert entry.unknown and entry.source
        base, ours = entry.runs(entry.shapes[0])
        assert (base.variant, base.shape.hpz) == ("zero3", 1)
        assert ours.variant == entry.variant
    assert NOT_VALIDATED


@pytest.mark.parametrize(("link", "bits"), [("50mbit", 5e7), ("1gbit", 1e9), ("2.5mbit", 2.5e6)])
def test_a_link_rate_is_read_as_bits(link: str, bits: float) -> None:
    base, _ = published()[0].runs("2x16-hpz16")
    assert Measured("r", Run(**{**base.model_dump(), "link": link}), 1.0).bits_per_second == bits


# ---- the timed policy


class Clocked:
    """Real tensors on the virtual device under the timed policy; `effects` is the order in which ops ran."""

    def __init__(self, scale: float) -> None:
        self.device = open_device("virtual", policy="eager", poison="nan")
        self.machine: Machine = self.device.machine  # type: ignore[attr-defined]
        self.policy = Timed(scale, A100)


def gathered_too_early(scale: float, ordered: bool) -> bool:
    """Whether a side stream reads a value before the default stream, busy with a product, has written it."""
    clocked = Clocked(scale)
    with clocked.device.activate():
        big = torch.ones(64, 64, device=clocked.device.torch_device)
        target = torch.zeros(8, device=clocked.device.torch_device)
        clocked.machine.use_policy(clocked.policy)
        with use(clocked.machine):
            side, ready = Stream(), Event()
        big @ big
        target.copy_(torch.ones(8, device=clocked.device.torch_device))
        ready.record()
        if ordered:
            side.wait_event(ready)
        with StreamContext(side):
            seen = target.clone()
        side.synchronize()
        value = seen[0].item()
    return value != 1.0


def test_timed_lets_a_read_overtake_a_copy_behind_long_work() -> None:
    assert gathered_too_early(scale=1e6, ordered=False)


def test_timed_keeps_an_order_that_the_program_asks_for() -> None:
    assert not gathered_too_early(scale=1e6, ordered=True)


def test_timed_sees_no_race_in_small_work_that_is_done_before_the_next_is_issued() -> None:
    assert not gathered_too_early(scale=1.0, ordered=False)


def test_timed_is_parsed_with_and_without_a_scale() -> None:
    plain, scaled = parse_policy("timed"), parse_policy("timed(1000)")
    assert isinstance(plain, Timed) and plain.scale == 1.0
    assert isinstance(scaled, Timed) and scaled.scale == 1000.0
    with pytest.raises(HarnessError, match=r"timed\(SCALE\)"):
        parse_policy("timed(x)")


def test_a_gpus_own_costs_stand_beside_the_fit() -> None:
    host = find("hosts", "server")
    gpu = {"launch_seconds": 4e-6, "to_host_bandwidth": 2.5e10}
    found = Calibration("NVIDIA", 1e14, 1e12, 2e-6, host, (), (), gpu)
    assert found.record()["gpu"] == gpu
    console = Console(file=io.StringIO(), width=120)
    console.print(*found.describe())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "GPU: launch" in text and "4.00 µs" in text
    assert "GPU: to host bytes/s" in text and "2.5e+10" in text


def test_a_gpus_costs_are_the_best_of_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    called: list[int] = []
    assert measure.issue_seconds(lambda: called.append(1)) == 1 / measure.ISSUED
    assert len(called) == measure.ISSUED * measure.REPEATS
