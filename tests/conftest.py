"""Shared by all rings: small studies that real DeepSpeed trains in seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.study import REPOSITORY

TINY: dict[str, Any] = {
    "name": "tiny",
    "question": "Does it run?",
    "device": "cpu",
    "training": {"steps": 4, "micro_batch": 1, "sequence_length": 16, "learning_rate": 4.0e-3},
    "data": {"source": "corpus", "path": "data/corpus.txt"},
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


@pytest.fixture
def study_file(tmp_path: Path) -> StudyFile:
    """Writes a tiny study, with some keys changed, beside the shipped models and data."""

    def write(**changes: Any) -> Path:
        folder = tmp_path / "experiments"
        if not folder.exists():
            shutil.copytree(REPOSITORY / "experiments", folder)
        file = folder / "tiny.yaml"
        file.write_text(yaml.safe_dump({**TINY, **changes}))
        return file

    return write
