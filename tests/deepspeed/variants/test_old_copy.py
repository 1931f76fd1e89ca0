"""The arithmetic of the missing copy against the real `_partition_param_sec` of several releases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from analysis.draw.missing import missing_map
from harness.diagnose import new_copy_raises, old_copy
from harness.study import load_model_file
from harness.system.places import REPOSITORY
from harness.variants import NAMED, Variant, released_variant
from tests.releases import overlay_of

SHAPES = ((4, 2), (8, 2), (8, 4), (6, 3), (4, 4))
CASES = [(numel, world, hpz) for world, hpz in SHAPES for numel in (*range(1, 80), 1001)]

# Calls the method itself for each rank of a world that need not exist, over memory that is filled with NaN.
PROBE = """
import json, sys
from types import SimpleNamespace
import torch
from deepspeed.runtime.zero import partition_parameters as zero
torch.use_deterministic_algorithms(True, warn_only=True)
zero.print_rank_0 = lambda *_, **__: None

def written(numel, world, hpz, rank):
    owner = SimpleNamespace(
        dp_world_size=world, num_ranks_in_param_group=hpz, rank=rank, rank_in_group=rank % hpz, remote_device="cpu",
        pin_memory=False, quantized_nontrainable_weights=False, _aligned_size=lambda p: -(-p.ds_numel // world) * world)
    param = torch.nn.Parameter(torch.arange(numel, dtype=torch.float32), requires_grad=False)
    param.ds_status, param.ds_secondary_tensor = zero.ZeroParamStatus.AVAILABLE, None
    param.ds_numel, param.ds_id, param.ds_secondary_tensor_num_of_groups = numel, 0, world // hpz
    try:
        zero.Init._partition_param_sec(owner, param)
    except (RuntimeError, IndexError):
        return None
    return int((~param.ds_secondary_tensor.isnan()).sum())

cases = json.loads(sys.stdin.read())
print("WRITTEN " + json.dumps([[written(*case, rank) for rank in range(case[1])] for case in cases]))
"""


Case = tuple[int, int, int]  # elements of a parameter, world size, hpZ size


def real_copy(variant: Variant, release: str, cases: Sequence[Case] = CASES) -> list[list[int | None]]:
    """Per case and rank: how many elements the release's method wrote; None where it raised."""
    overlay = overlay_of(variant, release)
    environment = {**os.environ, "PYTHONPATH": str(overlay), "DS_ACCELERATOR": "cpu", "LOCAL_SIZE": "1"}
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(
        command, input=json.dumps(cases), env=environment, capture_output=True, text=True, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("WRITTEN "))
    found: list[list[int | None]] = json.loads(line.removeprefix("WRITTEN "))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("release", ["0.13.4", "0.18.0", "0.19.5", "0.19.8"])
def test_old_copy_writes_what_the_arithmetic_says(release: str) -> None:
    for case, found in zip(CASES, real_copy(NAMED["stock"], release), strict=True):
        expected = old_copy(*case)
        pairs = zip(expected.raises, expected.written, strict=True)
        assert found == [None if raises else int(written) for raises, written in pairs], case


@pytest.mark.slow
def test_new_copy_writes_everything_or_stops_on_tiny_sizes_until_it_was_mended() -> None:
    for case, found in zip(CASES, real_copy(NAMED["unordered"], "0.18.0"), strict=True):
        assert (None in found) == new_copy_raises(*case), case
        if None not in found:
            assert found == list(old_copy(*case).valid), case


@pytest.mark.slow
def test_new_copy_of_0_19_8_never_raises_and_fills_padding() -> None:
    for case, found in zip(CASES, real_copy(NAMED["unordered"], "0.19.8"), strict=True):
        numel, world, hpz = case
        assert found == [-(-numel // world) * world // hpz] * world, case


@pytest.mark.slow
@pytest.mark.parametrize("release", ["0.10.0", "0.13.4", "0.13.5", "0.18.3", "0.19.8"])
def test_the_map_of_a_model_is_what_each_release_itself_writes(release: str) -> None:
    model = load_model_file(REPOSITORY / "experiments/models/falcon-40b-toy-unaligned.yaml")
    rows = missing_map(model, [1, 2, 3, 5], ranks_per_node=4, hpz=4, release=release)
    cases = [(row.elements, row.world_size, row.hpz) for row in rows]
    found = real_copy(
        NAMED["stock" if released_variant(release).copy == "old" else "unordered"], release, cases
    )
    for row, case, written in zip(rows, cases, found, strict=True):
        assert row.raises == (None in written), row
        pairs = zip(old_copy(*case).valid, written, strict=True)
        # What newer releases write beyond the valid elements is padding.
        assert row.raises or row.unwritten == sum(max(0, valid - (got or 0)) for valid, got in pairs), row
