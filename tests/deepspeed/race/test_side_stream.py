"""A forward pass on a stream of its own: what DeepSpeed up to 0.18.7 does with it (#7898)."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.race.explore import Budget
from harness.race.investigate import Settings, analysed, investigate
from harness.race.launch import Ranks
from harness.variants import Variant
from tests.deepspeed.race.race_help import job_of
from tests.releases import overlay_of


def ranks_of(release: str) -> Ranks:
    return Ranks(overlay_of(Variant.parse("zero3+step"), release))


@pytest.mark.slow
def test_gradients_made_on_another_stream_are_reduced_too_early_by_0_18_7(tmp_path: Path) -> None:
    job = job_of("side_stream", ranks=2)
    with ranks_of("0.18.7") as ranks:
        report = investigate(job, ranks, tmp_path, Settings(Budget(seeds=0, races=1, shrink=2)))
    assert {race.kind for race in report.races} == {"race"}
    for race in report.races:
        assert (race.first.stream, race.second.stream) == ("side", "reduce_and_partition_stream")
        assert race.second.site[0].code == "new_grad_tensor.copy_(param.grad, non_blocking=True)"
    assert any(race.effect and race.effect.found for race in report.races)


@pytest.mark.slow
def test_0_18_8_orders_them() -> None:
    job = job_of("side_stream", ranks=2)
    with ranks_of("0.18.8") as ranks:
        report = analysed(job, ranks.run(job))
    assert report.races == ()
    assert report.problems == ()
