"""Fine-tuning as the paper did it: from a checkpoint, on multiple-choice questions, with the accuracy at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.launch.local import run_study
from harness.record import Final, RunDirectory
from harness.study import Run, load_model_file, load_study
from harness.system.places import REPOSITORY
from harness.workload.models import build_model
from harness.workload.questions import held_out_questions
from harness.workload.rank import Rank
from harness.workload.sources import load_questions
from harness.workload.train import open_run_batches
from tests.conftest import write_study

MODEL = REPOSITORY / "experiments" / "models" / "falcon-7b-toy.yaml"
TRAINING = {"task": "finetune", "steps": 4, "micro_batch": 2, "sequence_length": 256, "checkpoint_every": 2}


class Tuned:
    """A pair of finished runs: hpZ as fixed, and ZeRO-3."""

    def __init__(self, folder: Path) -> None:
        build_model(load_model_file(MODEL), seed=5).save_pretrained(folder / "weights")
        self.study = load_study(
            write_study(
                folder,
                training={**TRAINING, "checkpoint": str(folder / "weights")},
                data={"source": "mmlu"},
                matrix={"model": "falcon-7b-toy", "variant": "fixed", "shape": "2x2-hpz2"},
            )
        )
        ((self.fixed, self.zero3),) = self.study.pairs
        self.results = folder / "results"
        self.run()

    def run(self) -> None:
        assert {status.state for status in run_study(self.study, self.results)} == {"done"}

    def directory(self, run: Run) -> RunDirectory:
        return RunDirectory(self.results / "runs" / run.run_id)

    def final(self, run: Run) -> Final:
        final = self.directory(run).status().final
        assert final is not None
        return final

    def steps(self, run: Run) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.directory(run).steps_file.read_text().splitlines()]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return Tuned(tmp_path_factory.mktemp("tuned"))


@pytest.mark.slow
def test_accuracy_is_of_the_held_out_questions_and_equal_in_a_pair(tuned: Tuned) -> None:
    asked = len(held_out_questions(load_questions(tuned.study.data)))
    accuracy = tuned.final(tuned.fixed).accuracy
    assert accuracy in [right / asked for right in range(asked + 1)]
    assert accuracy == tuned.final(tuned.zero3).accuracy


@pytest.mark.slow
def test_training_starts_from_the_checkpoint(tuned: Tuned) -> None:
    model = build_model(load_model_file(MODEL), checkpoint=tuned.zero3.training.checkpoint)
    batch = open_run_batches(tuned.zero3, Rank(0, 4)).at(0, 0)
    assert tuned.steps(tuned.zero3)[0]["loss"] == pytest.approx(model(**batch).loss.item(), rel=1e-3)


@pytest.mark.slow
def test_both_runs_of_a_pair_saw_the_same_batches(tuned: Tuned) -> None:
    assert tuned.final(tuned.fixed).batches_sha256 == tuned.final(tuned.zero3).batches_sha256
    hashes = [[line["batch_hash"] for line in tuned.steps(run)] for run in (tuned.fixed, tuned.zero3)]
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 4


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_final_record(tuned: Tuned) -> None:
    before, steps = tuned.final(tuned.fixed), tuned.steps(tuned.fixed)
    tuned.directory(
        tuned.fixed
    ).status_file.unlink()  # as if it had been killed after its checkpoint of step 2
    tuned.run()
    assert tuned.final(tuned.fixed) == before
    assert [line["loss"] for line in tuned.steps(tuned.fixed)] == [line["loss"] for line in steps]
    assert [line["utc"] for line in tuned.steps(tuned.fixed)][:2] == [line["utc"] for line in steps][:2]
