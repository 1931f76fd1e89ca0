"""Shared by all rings: small studies that real DeepSpeed trains in seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

from harness.system.places import REPOSITORY
from tests.rings import Rings

# A busy machine is no reason to fail, and every run tries the same cases.
settings.register_profile(
    "hpz", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hpz")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Rings())


TINY: dict[str, Any] = {
    "name": "tiny",
    "question": "Does it run?",
    "device": "cpu",
    "training": {"steps": 4, "micro_batch": 1, "sequence_length": 16, "learning_rate": 4.0e-3},
    "deepspeed": {
        "zero_optimization": {
            "stage3_prefetch_bucket_size": 2000,
            "stage3_max_live_parameters": 20000,
            "reduce_bucket_size": 30000,
        }
    },
    "matrix": {"model": "llama2-toy", "variant": "fixed", "shape": "2x2-hpz2"},
}

StudyFile = Callable[..., Path]


def write_study(root: Path, **changes: Any) -> Path:
    """A tiny study, with some keys changed, beside copies of the shipped models and data."""
    folder = root / "experiments"
    if not folder.exists():
        shutil.copytree(REPOSITORY / "experiments", folder)
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, **changes}))
    return file


@pytest.fixture
def study_file(tmp_path: Path) -> StudyFile:
    """`write_study` in this test's own folder."""
    return partial(write_study, tmp_path)
