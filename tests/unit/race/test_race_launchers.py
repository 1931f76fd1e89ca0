"""Command lines of launchers, read for our own ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.race.launchers import is_launcher, read_launch
from harness.system.errors import HarnessError


@pytest.mark.parametrize(
    ("line", "ranks", "script", "module", "arguments", "local_rank"),
    [
        ("deepspeed --num_gpus 4 train.py --lr 1", 4, "train.py", None, ("--lr", "1"), True),
        ("deepspeed --num_gpus=2 --no_local_rank train.py", 2, "train.py", None, (), False),
        ("deepspeed --include localhost:1,3 train.py", 2, "train.py", None, (), True),
        ("deepspeed --hostfile=h --module pkg.train -x", None, None, "pkg.train", ("-x",), True),
        ("torchrun --nproc-per-node 8 --nnodes 1:2 a/b.py", 16, "a/b.py", None, (), False),
        ("torchrun --standalone --nproc_per_node=gpu train.py", None, "train.py", None, (), False),
        ("torchrun --nproc_per_node 2 -m pkg.train --a", 2, None, "pkg.train", ("--a",), False),
        ("python -m torch.distributed.run --nproc_per_node 3 t.py", 3, "t.py", None, (), False),
        ("python -u train.py --epochs 1", None, "train.py", None, ("--epochs", "1"), False),
        ("fabric run --devices 2 --strategy deepspeed_stage_3 t.py --a", 2, "t.py", None, ("--a",), False),
        ("fabric run --devices=0,1,2 --num-nodes 2 t.py", 6, "t.py", None, (), False),
        ("accelerate launch --num_processes 2 train.py --fp16", 2, "train.py", None, ("--fp16",), False),
    ],
)
def test_a_launchers_line_says_what_runs_on_how_many_ranks(
    line: str,
    ranks: int | None,
    script: str | None,
    module: str | None,
    arguments: tuple[str, ...],
    local_rank: bool,
) -> None:
    launched = read_launch(line.split())
    assert (launched.ranks, launched.module, launched.arguments) == (ranks, module, arguments)
    assert launched.script == (Path(script) if script else None)
    assert launched.local_rank == local_rank


def test_accelerates_file_becomes_the_environment_that_it_sets(tmp_path: Path) -> None:
    file = tmp_path / "ds.yaml"
    file.write_text(
        "distributed_type: DEEPSPEED\nnum_processes: 2\nmixed_precision: bf16\ndeepspeed_config: {zero_stage: 3}\n"
    )
    launched = read_launch(["accelerate", "launch", "--config_file", str(file), "train.py"])
    assert launched.ranks == 2
    assert launched.environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert launched.environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"
    assert launched.environment["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_so_do_its_keys_of_fsdp(tmp_path: Path) -> None:
    file = tmp_path / "fsdp.yaml"
    file.write_text(
        "distributed_type: FSDP\nmixed_precision: bf16\nnum_processes: 4\nfsdp_config:\n  fsdp_version: 2\n"
        "  fsdp_reshard_after_forward: true\n  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP\n"
        "  fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer\n  fsdp_offload_params: null\n"
    )
    launched = read_launch(["accelerate", "launch", "--config_file", str(file), "train.py"])
    assert launched.ranks == 4
    assert launched.environment == {
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    }


def test_fabrics_options_become_the_environment_that_it_sets() -> None:
    line = "fabric run --accelerator cuda --devices 2 --strategy deepspeed t.py"
    launched = read_launch(line.split(" "))
    assert launched.environment == {
        "LT_ACCELERATOR": "cuda",
        "LT_STRATEGY": "deepspeed",
        "LT_DEVICES": "2",
        "LT_NUM_NODES": "1",
        "LT_CLI_USED": "1",
    }


def test_words_before_the_launcher_are_its_environment() -> None:
    assert read_launch(["A=1", "deepspeed", "train.py"]).environment == {"A": "1"}
    assert is_launcher("A=1") and not is_launcher("experiments/laptop.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("deepspeed --num_gpus 4", "no script among '--num_gpus 4'"),
        ("accelerate config", "only `accelerate launch …` starts a program"),
        ("accelerate launch --config_file nowhere.yaml train.py", "nowhere.yaml: cannot be read"),
    ],
)
def test_a_line_that_starts_nothing_is_one_sentence(line: str, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        read_launch(line.split())
