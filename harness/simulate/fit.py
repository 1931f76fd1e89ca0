"""Fits of a calibration: a roofline to kernels that were measured, and the host's time an operator to whole steps."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from scipy.optimize import least_squares

from harness.hardware import Host, find
from harness.simulate.trace import Kind, Trace
from harness.simulate.traces import traces
from harness.study import Run, Study
from harness.system.child import python_path, run_to_end
from harness.system.places import REPOSITORY
from harness.variants import Variant, overlay_path

Floats = npt.NDArray[np.float64]
REFERENCE = "server"  # the host profile that the fit scales


@dataclass(frozen=True)
class Sample:
    """One measurement and what the fitted model says."""

    name: str
    measured: float  # seconds
    predicted: float
    held_out: bool

    @property
    def error(self) -> float:
        """Relative: 0.1 says that the model is 10 % above the measurement."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Kernels:
    """What one device reaches, and the samples that say so."""

    device: str
    flops: float  # matrix FLOP/s reached
    bandwidth: float  # bytes/s reached
    kernel_seconds: float
    samples: tuple[Sample, ...]

    def record(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "flops": self.flops,
            "memory_bandwidth": self.bandwidth,
            "kernel_seconds": self.kernel_seconds,
        }


def fit_kernels(measured: Mapping[str, Any]) -> Kernels:
    """One device's roofline from its samples."""
    rates = fit_roofline(measured["samples"])
    samples = (
        Sample(s["name"], s["seconds"], roofline(s, *rates), s["held_out"]) for s in measured["samples"]
    )
    return Kernels(measured["device"], *rates, tuple(samples))


def roofline(sample: dict[str, Any], flops: float, bandwidth: float, overhead: float) -> float:
    """Seconds of one kernel: a fixed cost, and the longer of arithmetic and memory traffic."""
    return float(overhead + max(sample["flops"] / flops, sample["bytes"] / bandwidth))


def fit_roofline(samples: list[dict[str, Any]]) -> tuple[float, float, float]:
    """(FLOP/s, bytes/s, seconds of the shortest kernel) that fit the samples not held out, in relative terms."""
    fitted = [s for s in samples if not s["held_out"]]
    seconds = np.array([s["seconds"] for s in fitted])
    fastest = max((s["flops"] / s["seconds"] for s in fitted), default=1e9)
    widest = max((s["bytes"] / s["seconds"] for s in fitted if not s["flops"]), default=1e9)
    start = np.log([max(fastest, 1.0), max(widest, 1.0), float(seconds.min()) / 2])

    def residuals(logs: Floats) -> Floats:
        rates = [float(each) for each in np.exp(logs)]
        predicted = np.array([roofline(s, *rates) for s in fitted])
        return np.asarray(np.log(predicted / seconds))

    found = np.exp(least_squares(residuals, start, loss="soft_l1").x)
    return float(found[0]), float(found[1]), float(found[2])


def measure(what: str, runs: list[Run] | None = None) -> Any:
    """Run the measuring program in a process with the fixed variant first on its path."""
    with tempfile.TemporaryDirectory(prefix="hpz-calibrate-") as folder:
        output = Path(folder) / "measured.json"
        command = [sys.executable, "-m", "harness.simulate.measure", what, str(output)]
        if runs is not None:
            (Path(folder) / "runs.json").write_text(json.dumps([run.model_dump(mode="json") for run in runs]))
            command.append(str(Path(folder) / "runs.json"))
        environment = {
            "PYTHONPATH": python_path(overlay_path(Variant.parse("fixed"))),
            "OMP_NUM_THREADS": "1",
        }
        run_to_end(command, environment, f"hpz calibrate: measuring {what} failed")
        return json.loads(output.read_text())


def host_seconds(trace: Trace, host: Host) -> float:
    """What the host spends on one step of the trace, its waits left out."""
    columns = trace.columns
    issued = trace.count(Kind.OP) + trace.count(Kind.TRANSFER)
    events = trace.count(Kind.RECORD) + trace.count(Kind.WAIT)
    return float(
        issued * host.launch_seconds
        + columns["views"].sum() * host.view_seconds
        + events * host.event_seconds
        + trace.count(Kind.COLLECTIVE) * host.collective_seconds
    )


def fit_factor(reference: Floats, measured: Floats) -> float:
    """The factor on `reference` seconds that makes the median relative error against `measured` zero."""
    return float(np.median(measured / reference))


def fit_host(cpu: Kernels) -> tuple[Host, tuple[Sample, ...]]:
    from harness.simulate.trace import load

    runs = _tiny_runs()
    everything = [run for _, run, _ in runs]
    seconds = np.array(measure("steps", everything))
    files = traces(everything)
    loaded = [load(files[run.run_id]) for run in everything]
    reference: Host = find("hosts", REFERENCE)
    issuing = np.array([host_seconds(trace, reference) for trace in loaded])
    # Steps ran on the CPU, its kernels inside the host's calls, so their own time comes off first.
    work = np.array([_kernel_work(trace, cpu) for trace in loaded])
    fitted = np.array([not held_out for _, _, held_out in runs])
    factor = fit_factor(issuing[fitted], np.maximum(seconds - work, 0.0)[fitted])
    predicted = factor * issuing + work
    samples = tuple(
        Sample(name, float(took), float(said), held_out)
        for (name, _, held_out), took, said in zip(runs, seconds, predicted, strict=True)
    )
    scaled = {key: factor * value for key, value in reference.model_dump(exclude={"source"}).items()}
    source = f"hpz calibrate on {platform.processor() or platform.machine()}: {factor:.2f} times {REFERENCE}"
    host = Host(source=source, **scaled)
    return host, samples


def _kernel_work(trace: Trace, cpu: Kernels) -> float:
    columns = trace.columns
    moved = (columns["read"] + columns["written"]) / cpu.bandwidth
    ops = columns["kind"] == Kind.OP
    return float(np.maximum(moved, columns["flops"] / cpu.flops)[ops].sum())


def _tiny_runs() -> list[tuple[str, Run, bool]]:
    """(name, run, held out): toy models, in which the host is all that counts."""
    fitted = [("llama2-toy", depth, variant, 1) for depth in (2, 8) for variant in ("zero3", "fixed")]
    unseen = [("llama2-toy", 5, "fixed", 1), ("llama2-toy", 4, "fixed", 2), ("falcon-7b-toy", 6, "fixed", 1)]
    return [
        (
            f"{model}, {depth} layers, {variant}, {micro} micro-batches",
            _tiny(model, depth, variant, micro),
            held,
        )
        for held, configs in ((False, fitted), (True, unseen))
        for model, depth, variant, micro in configs
    ]


def _tiny(model: str, depth: int, variant: str, accumulation: int) -> Run:
    spec = yaml.safe_load((REPOSITORY / "experiments" / "models" / f"{model}.yaml").read_text())
    per_layer = _parameters_of_layer(spec)
    layers = spec["config"]["num_hidden_layers"]
    spec["parameters"] += (depth - layers) * per_layer
    spec["config"]["num_hidden_layers"] = depth
    study = Study.model_validate(
        {
            "name": "calibrate",
            "device": "cpu",
            "training": {"micro_batch": 1, "sequence_length": 16, "gradient_accumulation": accumulation},
            "deepspeed": {
                "zero_optimization": {
                    "stage3_prefetch_bucket_size": 2000,
                    "stage3_max_live_parameters": 20000,
                    "reduce_bucket_size": 30000,
                }
            },
            "matrix": {"model": model, "variant": variant, "shape": "2x2-hpz2"},
            "models": {model: spec},
        }
    )
    return next(run for run in study.runs if run.variant == variant)


def _parameters_of_layer(spec: dict[str, Any]) -> int:
    from harness.study import parameter_shapes, parse_model

    shapes = parameter_shapes(parse_model(spec, "calibrate"))
    return sum(int(np.prod(shape)) for name, shape in shapes if ".0." in name)
