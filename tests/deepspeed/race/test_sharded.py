"""`hpz race` on PyTorch's own sharded training: FullyShardedDataParallel, fully_shard, and what DTensor calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.race.explore import Budget
from harness.race.investigate import Settings, analysed, investigate
from harness.race.job import Job, Program
from harness.race.launch import Ranks
from harness.race.launchers import read_launch
from harness.race.report import Report
from tests.deepspeed.race.race_help import SCRIPTS


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with Ranks(None, tmp_path_factory.mktemp("ranks"), map_cuda=True) as warm:
        yield warm


def job(script: str, *arguments: str, world: int = 2) -> Job:
    program = Program(world, script=str(SCRIPTS / f"{script}.py"), arguments=arguments, map_cuda=True)
    return Job(program)


def report(ranks: Ranks, asked: Job) -> Report:
    return analysed(asked, ranks.run(asked, 240))


@pytest.mark.parametrize(("form", "world"), [("fsdp", 2), ("fully_shard", 2), ("hybrid", 4)])
def test_sharded_training_is_followed_to_its_end_and_clean(ranks: Ranks, form: str, world: int) -> None:
    found = report(ranks, job("sharded", form, world=world))
    assert found.problems == ()
    assert found.races == ()
    assert found.steps == 3


def test_a_step_of_sharded_parameters_is_ops_on_the_device(ranks: Ranks) -> None:
    """A checkpoint that does not wait for it races with the shards, which are called after their parameters."""
    found = report(ranks, job("sharded", "fully_shard", "saved"))
    names = {name for race in found.races for name in race.names}
    assert names == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert "_foreach_mul_" in {race.first.op for race in found.races}  # the optimizer's


def test_memory_of_an_all_gather_that_is_freed_too_early_is_found_and_changes_values(
    ranks: Ranks, tmp_path: Path
) -> None:
    found = investigate(
        job("sharded", "fully_shard", "unordered"), ranks, tmp_path, Settings(Budget(seeds=0))
    )
    freed = found.of_kind("freed-in-use")
    assert freed
    assert any(race.effect is not None and race.effect.found for race in freed)


def test_functional_collectives_and_tensor_parallel_models_compute_what_they_should(ranks: Ranks) -> None:
    found = report(ranks, job("functional"))
    assert found.problems == ()
    assert found.races == ()


TRAIN = """
import torch
from accelerate import Accelerator

accelerator = Accelerator()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model, optimizer = accelerator.prepare(model, optimizer)
for _ in range(2):
    accelerator.backward(model(torch.ones(4, 8, device=accelerator.device)).square().mean())
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.parametrize("version", [1, 2])
def test_accelerate_shards_as_its_file_says(ranks: Ranks, version: int, tmp_path: Path) -> None:
    config, script = tmp_path / "accelerate.yaml", tmp_path / "train.py"
    config.write_text(
        "distributed_type: FSDP\nmixed_precision: bf16\nnum_processes: 2\n"
        f"fsdp_config: {{fsdp_version: {version}, fsdp_auto_wrap_policy: NO_WRAP, fsdp_use_orig_params: true}}\n"
    )
    script.write_text(TRAIN)
    launched = read_launch(["accelerate", "launch", "--config_file", str(config), str(script)])
    program = Program(2, script=str(script), map_cuda=True, environment=tuple(launched.environment.items()))
    found = report(ranks, Job(program))
    assert found.problems == ()
    assert found.races == ()
    assert found.coverage.collectives > 0
