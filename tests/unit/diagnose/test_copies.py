"""The copy into the secondary partition of each release, executed: where it stops, and what it leaves unwritten."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.diagnose import Setup, exposures, old_copy
from harness.diagnose.evidence import PARTITION
from harness.variants import supported_releases
from tests.releases import pristine

COPIES = ("0.10.0", "0.10.3", "0.13.4", "0.13.5", "0.14.3", "0.14.4", "0.19.4", "0.19.5", "0.19.8")
"""Both sides of every change to the copy's lines."""

CASES = ((48, 6, 2), (1001, 6, 2), (7, 6, 2), (1, 6, 2), (5, 4, 2), (1, 4, 4), (17, 8, 2), (3, 8, 4))
"""Elements, world, hpZ: one that divides, one that does not, and tiny ones that the old or the new copy refuses."""

Copy = Callable[[SimpleNamespace, torch.nn.Parameter], None]


def copy_of(release: str) -> Copy:
    """The release's own method, compiled from its source; what it calls of DeepSpeed are names that do nothing."""
    tree = ast.parse((pristine(release) / PARTITION).read_text())
    method = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "_partition_param_sec"
    )
    method.decorator_list = []
    status = SimpleNamespace(INFLIGHT="in flight", AVAILABLE="available")
    host = SimpleNamespace(synchronize=lambda: None)
    names = {
        # Fresh memory holds anything; here it is not a number, so that what is left unwritten can be told.
        "torch": SimpleNamespace(
            empty=lambda size, **_: torch.full((size,), math.nan), no_grad=torch.no_grad
        ),
        "get_accelerator": lambda: SimpleNamespace(
            current_stream=lambda: host, resolves_data_dependency=lambda: True
        ),
        "ZeroParamStatus": status,
        "PartitionedParamStatus": status,
        "print_rank_0": lambda *_, **__: None,
    }
    exec(compile(ast.Module([method], []), release, "exec"), names)
    copy: Copy = names["_partition_param_sec"]  # type: ignore[assignment]
    return copy


def copied(copy: Copy, numel: int, world: int, hpz: int, rank: int) -> torch.Tensor | None:
    """The rank's secondary partition of a parameter that counts from 0; None where the copy stops with an error."""
    owner = SimpleNamespace(
        dp_world_size=world,
        num_ranks_in_param_group=hpz,
        rank=rank,
        rank_in_group=rank % hpz,
        remote_device="cpu",
        pin_memory=False,
        quantized_nontrainable_weights=False,
        _aligned_size=lambda param: math.ceil(param.ds_numel / world) * world,
    )
    param = torch.nn.Parameter(torch.arange(numel, dtype=torch.float32), requires_grad=False)
    param.ds_status, param.ds_secondary_tensor = "available", None
    param.ds_numel, param.ds_id, param.ds_secondary_tensor_num_of_groups = numel, 0, world // hpz
    try:
        copy(owner, param)
    except (RuntimeError, IndexError):
        return None
    found: torch.Tensor = param.ds_secondary_tensor
    return found


def said(fault: str, release: str, case: tuple[int, int, int]) -> bool:
    numel, world, hpz = case
    zero = {"stage": 3, "zero_hpz_partition_size": hpz}
    setup = Setup(release=release, config={"zero_optimization": zero}, world_size=world, numels=(numel,))
    return next(one for one in exposures(setup) if one.fault == fault).exposed == "yes"


def check(release: str) -> None:
    copy = copy_of(release)
    for case in CASES:
        partitions = [copied(copy, *case, rank) for rank in range(case[1])]
        written = [partition for partition in partitions if partition is not None]
        stops = len(written) < len(partitions)
        assert stops == said("tiny parameters", release, case), case
        if not stops:
            slices = old_copy(*case)
            right = [
                np.array_equal(partition[:valid], np.arange(start, start + valid))
                for partition, start, valid in zip(written, slices.start, slices.valid, strict=True)
            ]
            assert all(right) != said("missing copy", release, case), case


@pytest.mark.parametrize("release", COPIES)
def test_the_copy_does_what_the_doctor_says(release: str) -> None:
    check(release)


@pytest.mark.every_release
@pytest.mark.parametrize("release", [one for one in supported_releases() if one not in COPIES])
def test_the_copy_of_every_other_release_does_what_the_doctor_says(release: str) -> None:
    check(release)
