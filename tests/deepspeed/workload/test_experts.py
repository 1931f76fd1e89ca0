"""Mixtures of experts under ZeRO-3 and hpZ: real training, and what ZeRO-3 must be told of experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.launch.local import run_study
from harness.record import RunDirectory
from harness.study import Run, load_model_file, load_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.workload.models import _prepare_experts, build_model
from tests.conftest import write_study

MODELS = REPOSITORY / "experiments" / "models"


@pytest.mark.slow
def test_a_mixture_of_experts_trains_with_hpz_as_with_zero3(tmp_path: Path) -> None:
    matrix = {"model": "qwen3-moe-toy", "variant": "event", "shape": "2x2-hpz2", "policy": "side-first"}
    file = write_study(
        tmp_path, device="virtual", baseline={"variant": "zero3", "policy": "eager"}, matrix=matrix
    )
    study = load_study(file)
    results = tmp_path / "results"
    assert {status.state for status in run_study(study, results)} == {"done"}

    def steps(run: Run) -> list[dict[str, Any]]:
        lines = RunDirectory(results / "runs" / run.run_id).steps_file.read_text().splitlines()
        return [json.loads(line) for line in lines]

    ((event, zero3),) = study.pairs
    assert [step["loss"] for step in steps(event)] == [step["loss"] for step in steps(zero3)]
    assert all(step["secondary_gathers"] > 0 for step in steps(event))


class Block(torch.nn.Module):
    """A layer as transformers had it before its release 5: each expert a module."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(8, 2, bias=False)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(8, 8, bias=False) for _ in range(2))


def test_separate_experts_are_gathered_together() -> None:
    from deepspeed.utils import z3_leaf_module

    model = torch.nn.Sequential(Block(), torch.nn.Linear(8, 8), Block())
    _prepare_experts(model)
    assert [z3_leaf_module(layer) for layer in model] == [True, False, True]


def test_separate_experts_need_a_deepspeed_that_knows_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("deepspeed.utils.set_z3_leaf_modules")
    with pytest.raises(
        HarnessError, match=r"model: the experts of Block are separate modules, .* take a later release"
    ):
        _prepare_experts(Block())


def test_experts_in_one_parameter_need_no_leaf() -> None:
    from deepspeed.utils import z3_leaf_module

    model = build_model(load_model_file(MODELS / "mixtral-toy.yaml"))
    assert not any(z3_leaf_module(module) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "product"), [("mixtral-toy", "grouped_mm"), ("mixtral-toy-unaligned", "batched_mm")]
)
def test_rows_that_suit_no_grouped_product_take_another(name: str, product: str) -> None:
    model = build_model(load_model_file(MODELS / f"{name}.yaml"), dtype="bf16")
    assert model.config._experts_implementation == product
    tokens = torch.arange(32).reshape(2, 16)
    assert torch.isfinite(model(input_ids=tokens, labels=tokens).loss)
