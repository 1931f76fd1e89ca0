"""Published measurements of throughput, from `published.yaml`, and the runs that they were made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from harness.study import Run, Study
from harness.system.places import REPOSITORY

PUBLISHED = Path(__file__).with_name("published.yaml")


class Published(BaseModel):
    """One entry of published.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    source: str
    statement: str
    measured: dict[str, float]
    unknown: str
    comparable: bool
    """Whether simulated and measured are the same thing; else the measured number is only a bound."""
    gpu: str
    networks: list[str]
    shapes: list[str]
    model: str
    variant: str
    training: dict[str, Any]
    zero_optimization: dict[str, Any]

    def runs(self, shape: str) -> tuple[Run, Run]:
        """(ZeRO-3, the variant) on that shape."""
        file = REPOSITORY / "experiments" / "models" / f"{self.model}.yaml"
        study = Study.model_validate(
            {
                "name": "published",
                "device": "cuda",
                "training": self.training,
                "deepspeed": {"zero_optimization": self.zero_optimization},
                "matrix": {"model": self.model, "variant": self.variant, "shape": shape},
                "models": {self.model: yaml.safe_load(file.read_text())},
            }
        )
        (pair,) = study.pairs
        return pair[1], pair[0]


def published() -> list[Published]:
    """All published measurements."""
    return [Published.model_validate(entry) for entry in yaml.safe_load(PUBLISHED.read_text())]


def judgement(entry: Published, speedup: float) -> str:
    """What a simulated speed-up says of the published one."""
    if entry.comparable:
        return "compared; the network is not known"
    high = entry.measured["speedup_high"]
    return "consistent: below what all three techniques reach" if speedup <= high else "too optimistic"
