"""Calibration: the cost model fitted to measurements of this machine, with its error on what it has not seen.

Kernels are fitted as a roofline with a fixed cost, those of the CPU and of a GPU each for itself; the host as the
shipped `server` profile times one factor (what each kind of record costs against the others cannot be told apart from
the times of steps, which run on the CPU). All are fitted on a part of the measurements and judged on the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from rich.table import Table

from harness.hardware import Gpu, Hardware, Host, find
from harness.simulate.fit import Kernels, Sample, fit_host, fit_kernels, measure

REFERENCE_GPU = "a100-sxm-80gb"
OWN = "this-machine"  # the name of the profiles that are written


@dataclass(frozen=True)
class Calibration:
    """What `hpz calibrate` found on this machine: its CPU, and a GPU where there is one."""

    cpu: Kernels
    host: Host
    steps: tuple[Sample, ...]  # on the CPU
    gpu: Kernels | None = None
    gpu_costs: Mapping[str, float] | None = None  # measured: the host's seconds, copies, memory

    @property
    def samples(self) -> dict[str, tuple[Sample, ...]]:
        """Every sample, by what was sampled."""
        gpu = {"gpu_kernels": self.gpu.samples} if self.gpu else {}
        return {"kernels": self.cpu.samples, "steps": self.steps, **gpu}

    def record(self) -> dict[str, Any]:
        """For JSON: the fitted numbers, every sample, and the median absolute error fitted and held out."""
        return {
            **self.cpu.record(),
            "host": self.host.model_dump(exclude={"source"}),
            "gpu": {**self.gpu.record(), **(self.gpu_costs or {})} if self.gpu else None,
            "errors": {
                name: {"fitted": _typical(samples, False), "held_out": _typical(samples, True)}
                for name, samples in self.samples.items()
            },
            "samples": [vars(one) | {"error": one.error} for each in self.samples.values() for one in each],
        }

    def hardware(self) -> Hardware:
        """Profiles for `simulate.hardware` of a study: the host, and the GPU where there is one."""
        if self.gpu is None or self.gpu_costs is None:
            return Hardware(hosts={OWN: self.host})
        return Hardware(
            hosts={OWN: _beside_a_gpu(self.host, self.gpu_costs)},
            gpus={OWN: _gpu_profile(self.gpu, self.gpu_costs)},
        )

    def describe(self) -> list[Table]:
        """Tables for people."""
        numbers = Table(title="this machine, fitted", box=None, show_header=False)
        for device in (self.cpu, self.gpu):
            for name, value in device.record().items() if device else ():
                numbers.add_row(*_row("GPU" if device is self.gpu else "CPU", name, value))
        for name, value in self.host.model_dump(exclude={"source"}).items():
            numbers.add_row(*_row("host", name, value))
        for name, value in (self.gpu_costs or {}).items():
            numbers.add_row(*_row("GPU, measured", name, value))
        samples = Table(title="model against measurement", box=None)
        for heading in ("what", "measured ms", "model ms", "error", ""):
            samples.add_column(heading, justify="left" if heading in ("what", "") else "right")
        for one in (one for each in self.samples.values() for one in each):
            held = "held out" if one.held_out else "fitted"
            samples.add_row(
                one.name,
                f"{one.measured * 1e3:.3f}",
                f"{one.predicted * 1e3:.3f}",
                f"{100 * one.error:+.0f} %",
                held,
            )
        return [numbers, samples]


def _row(of: str, key: str, value: Any) -> tuple[str, str]:
    """One fitted or measured number for people."""
    name = f"{of}: {key.replace('_', ' ')}"
    if key.endswith("_seconds"):
        return name.removesuffix(" seconds"), f"{value * 1e6:.2f} µs"
    return name, value if isinstance(value, str) else f"{value:.3g}"


def _beside_a_gpu(host: Host, costs: Mapping[str, float]) -> Host:
    """The host as fitted on the CPU, with what was measured beside the GPU in its place."""
    measured = {name: costs[name] for name in ("launch_seconds", "event_seconds", "sync_seconds")}
    source = f"{host.source}; launches, events and waits as measured beside the GPU"
    return host.model_copy(update={**measured, "source": source})


def _gpu_profile(found: Kernels, costs: Mapping[str, float]) -> Gpu:
    """The GPU as fitted; what one GPU alone cannot show is the reference's."""
    reference: Gpu = find("gpus", REFERENCE_GPU)
    measured = {
        "source": f"hpz calibrate on {found.device}; NVLink and 32-bit products: {REFERENCE_GPU}'s, not measured",
        "half_flops": found.flops,
        "matmul_efficiency": 1.0,
        "memory_bandwidth": found.bandwidth,
        "memory_efficiency": 1.0,
        "memory_bytes": costs["memory_bytes"],
        "kernel_seconds": found.kernel_seconds,
        "pcie_bandwidth": min(costs["to_host_bandwidth"], costs["to_device_bandwidth"]),
    }
    return Gpu.model_validate(reference.model_dump() | measured)


def _typical(samples: tuple[Sample, ...], held_out: bool) -> float | None:
    errors = [abs(s.error) for s in samples if s.held_out == held_out]
    return float(np.median(errors)) if errors else None


def calibrate_machine() -> Calibration:
    """Measure kernels and steps here and fit both. Raises RunFailed where the measuring program fails."""
    measured = measure("kernels")
    cpu, gpu = (fit_kernels(measured[device]) if measured[device] else None for device in ("cpu", "gpu"))
    assert cpu is not None
    host, steps = fit_host(cpu)
    return Calibration(cpu, host, steps, gpu, measured["gpu_costs"])


def hardware_yaml(found: Calibration) -> str:
    """The measured profiles as a file that a study names under `simulate.hardware`."""
    content = found.hardware().model_dump(exclude_defaults=True)
    return (
        f"# Measured by hpz calibrate. In a study: simulate.hardware names this file, .host (.gpu) {OWN}.\n"
        + (yaml.safe_dump(content, sort_keys=False))
    )
