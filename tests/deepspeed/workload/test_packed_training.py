"""Real DeepSpeed trains on a packed corpus of real text: every variant sees the same batches, and the loss falls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.corpus.prepare import prepare
from harness.launch.local import run_study
from harness.record import RunDirectory
from harness.study import corpus_source, load_study
from harness.study.text import stdlib_text
from tests.conftest import write_study

TRAINING = {"steps": 16, "micro_batch": 2, "sequence_length": 64, "learning_rate": 1.0e-2}


@pytest.mark.slow
def test_a_pair_trains_on_the_same_real_text(tmp_path: Path) -> None:
    data = {"file": "text.txt", "packed": True, "validation_fraction": 0.1, "prepared": "kept"}
    file = write_study(tmp_path, data=data, training=TRAINING)
    (file.parent / "text.txt").write_bytes(stdlib_text()[:1_000_000])
    prepare(corpus_source(load_study(file).data), workers=2)
    study = load_study(file)
    assert {status.state for status in run_study(study, tmp_path / "results")} == {"done"}
    recorded = [RunDirectory(tmp_path / "results" / "runs" / run.run_id) for run in study.runs]
    assert len({directory.status().final.batches_sha256 for directory in recorded}) == 1  # type: ignore[union-attr]
    for directory in recorded:
        losses = [json.loads(line)["loss"] for line in directory.steps_file.read_text().splitlines()]
        assert losses[-1] < losses[0] - 1.0
