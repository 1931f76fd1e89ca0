"""Calibration fits what was made up; published entries are whole; the timed policy keeps the clock's order."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from harness.clock.policy import policy_named
from harness.clock.timed import Timed
from harness.device import open_device
from harness.device.streams import Event, Machine, Stream, StreamContext, use
from harness.hardware import find
from harness.simulate import measure
from harness.simulate.calibrate import Calibration, hardware_yaml
from harness.simulate.fit import Kernels, Sample, fit_factor, fit_roofline, roofline
from harness.simulate.plan import cells
from harness.simulate.published import judgement, published
from harness.simulate.validate import NOT_VALIDATED, Measured, cpu_cluster
from harness.study import Run, load_study, save_study
from harness.system.errors import HarnessError
from tests.conftest import StudyFile
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


SAMPLES = (Sample("a", 1.0, 1.1, False), Sample("b", 1.0, 0.7, True))
CPU = Kernels("cpu", 1e10, 2e10, 1e-6, SAMPLES)
H100 = Kernels("NVIDIA H100", 4e14, 2e12, 2e-6, ())
COSTS = {
    "launch_seconds": 4e-6,
    "event_seconds": 1e-6,
    "sync_seconds": 5e-6,
    "memory_bytes": 8e10,
    "to_host_bandwidth": 2.5e10,
    "to_device_bandwidth": 2.4e10,
}


def test_a_calibration_says_its_errors() -> None:
    found = Calibration(CPU, find("hosts", "server"), SAMPLES)
    errors = found.record()["errors"]["steps"]
    assert errors == {"fitted": pytest.approx(0.1), "held_out": pytest.approx(0.3)}
    assert len(found.describe()) == 2


def test_a_study_is_simulated_with_the_profiles_that_a_calibration_wrote(
    tmp_path: Path, study_file: StudyFile
) -> None:
    found = Calibration(CPU, find("hosts", "server"), SAMPLES, H100, COSTS)
    study_file().with_name("mine.yaml").write_text(hardware_yaml(found))
    own = {"hardware": "mine.yaml", "gpu": "this-machine", "host": "this-machine"}
    block = {"model": "llama2-toy", "variant": "fixed", "shape": "2x2-hpz2"}
    study = load_study(study_file(simulate={**own, "sync_cost": [block]}))
    (cell,) = cells(study)
    assert cell.cluster.gpu.half_flops == 4e14 and cell.cluster.gpu.pcie_bandwidth == 2.4e10
    assert cell.cluster.host.launch_seconds == 4e-6
    assert cell.cluster.host.view_seconds == find("hosts", "server").view_seconds
    (resolved,) = cells(load_study(save_study(study, tmp_path / "results").parent))
    assert resolved.cluster == cell.cluster  # results hold what they used


def test_a_missing_or_broken_file_of_profiles_is_named(study_file: StudyFile) -> None:
    with pytest.raises(HarnessError, match=r"nowhere\.yaml: cannot be read .*hpz calibrate --output"):
        load_study(study_file(simulate={"hardware": "nowhere.yaml"}))
    study_file().with_name("mine.yaml").write_text("hosts: {mine: {source: here}}")
    with pytest.raises(
        HarnessError, match=r"simulate\.hardware\.hosts\.mine\.launch_seconds is missing; give it"
    ):
        cells(load_study(study_file(simulate={"hardware": "mine.yaml"})))


def test_a_gpu_changes_nothing_of_what_ran_on_the_cpu() -> None:
    """CPU ranks are validated with the CPU's own rates, on a machine with a GPU too."""
    alone, beside = (Calibration(CPU, find("hosts", "server"), SAMPLES, *gpu) for gpu in ((), (H100, COSTS)))
    one, other = (cpu_cluster(found.record(), 5e7) for found in (alone, beside))
    assert one == other
    assert (one.gpu.single_flops, one.network.algorithm, one.streams) == (1e10, "gloo", False)


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


def test_a_published_speedup_is_compared_or_taken_as_a_bound() -> None:
    entries = {entry.id: entry for entry in published()}
    assert judgement(entries["deepspeed-4906"], 9.0) == "compared; the network is not known"
    bound = entries["zeropp-blog-400gbps"]  # all three techniques together: at most 1.57
    assert judgement(bound, 1.2) == "consistent: below what all three techniques reach"
    assert judgement(bound, 1.6) == "too optimistic"


@pytest.mark.parametrize(("link", "bits"), [("50mbit", 5e7), ("1gbit", 1e9), ("2.5mbit", 2.5e6)])
def test_a_link_rate_is_read_as_bits(link: str, bits: float) -> None:
    base, _ = published()[0].runs("2x16-hpz16")
    assert Measured("r", Run(**{**base.model_dump(), "link": link}), 1.0).bits_per_second == bits


# ---- the timed policy


class Clocked:
    """Real tensors on the virtual device under the timed policy; `effects` is the order in which ops ran."""

    def __init__(self, scale: float) -> None:
        self.device = open_device("virtual")
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
    plain, scaled = policy_named("timed"), policy_named("timed(1000)")
    assert isinstance(plain, Timed) and plain.scale == 1.0
    assert isinstance(scaled, Timed) and scaled.scale == 1000.0
    with pytest.raises(HarnessError, match=r"timed\(SCALE,NETWORK,GPU\)"):
        policy_named("timed(x)")


def test_timed_is_part_of_the_run_with_the_hardware_that_it_clocks(study_file: StudyFile) -> None:
    policies = [
        "timed",
        "timed(10)",
        "timed(10, infiniband-400gbps)",
        "timed(10,infiniband-400gbps,h100-sxm-80gb)",
    ]
    matrix = {"model": "llama2-toy", "variant": "fixed", "shape": "2x2-hpz2", "policy": policies}
    runs = [run for run in load_study(study_file(device="virtual", matrix=matrix)).runs if run.shape.hpz > 1]
    assert len({run.run_id for run in runs}) == 4
    clocks = [policy_named(run.policy) for run in runs]
    assert [clock.on.network == find("networks", "infiniband-400gbps") for clock in clocks] == [0, 0, 1, 1]  # type: ignore[attr-defined]
    assert clocks[-1].on.gpu == find("gpus", "h100-sxm-80gb")  # type: ignore[attr-defined]


def test_timed_on_unknown_hardware_is_refused(study_file: StudyFile) -> None:
    matrix = {"model": "llama2-toy", "variant": "fixed", "shape": "2x2-hpz2", "policy": "timed(1,tin-cans)"}
    with pytest.raises(HarnessError, match=r"matrix\.policy: 'tin-cans' is not among networks"):
        load_study(study_file(device="virtual", matrix=matrix))


def test_a_gpus_own_costs_stand_beside_the_fit() -> None:
    found = Calibration(CPU, find("hosts", "server"), (), H100, COSTS)
    assert found.record()["gpu"] == {**H100.record(), **COSTS}
    console = Console(file=io.StringIO(), width=120)
    console.print(*found.describe())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "GPU, measured: launch" in text and "4.00 µs" in text
    assert "GPU, measured: to host bandwidth" in text and "2.5e+10" in text


def test_a_gpus_costs_are_the_best_of_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    called: list[int] = []
    assert measure.issue_seconds(lambda: called.append(1)) == 1 / measure.ISSUED
    assert len(called) == measure.ISSUED * measure.REPEATS
