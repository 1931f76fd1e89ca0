"""What is written to the weights between two passes is not ordered before the next all-gather, but for `load=event`."""

from __future__ import annotations

import pytest

from harness.race.investigate import analysed
from harness.race.launch import Ranks
from harness.race.report import Report
from harness.variants import Variant
from tests.deepspeed.race.race_help import job_of
from tests.releases import overlay_of

GATHER = "(dist.allgather_fn)(output_tensor"


def report_of(variant: str, release: str, how: str, hpz: int, warm_up: int = 2) -> Report:
    overlay = overlay_of(Variant.parse(variant), release)
    job = job_of("between_passes", how, "--hpz", str(hpz), "--warm-up", str(warm_up), ranks=2)
    with Ranks(overlay) as ranks:
        report = analysed(job, ranks.run(job))
    assert report.problems == ()
    return report


# With hpZ the exit of GatheredParameters renews the secondary partition, whose order is that of its copy.
WAYS = [("checkpoint", 2), ("universal", 2), ("average", 2), ("state-dict", 1), ("gathered", 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "hpz"), WAYS)
def test_no_way_of_writing_is_ordered_before_the_next_gather(how: str, hpz: int) -> None:
    report = report_of("event+step" if hpz > 1 else "zero3+step", "0.19.8", how, hpz)
    reads = {access.site[0].code for race in report.races for access in (race.first, race.second)}
    assert any(GATHER in code for code in reads), reads


@pytest.mark.slow
@pytest.mark.parametrize(("how", "hpz"), WAYS)
def test_the_load_axis_orders_every_way_of_writing(how: str, hpz: int) -> None:
    variant = "event+step+load" if hpz > 1 else "zero3+step+load"
    assert report_of(variant, "0.19.8", how, hpz).races == ()


@pytest.mark.slow
@pytest.mark.parametrize(("release", "warm_up"), [("0.10.3", 1), ("0.13.4", 1), ("0.16.9", 2)])
def test_other_releases_have_it_and_are_ordered_alike(release: str, warm_up: int) -> None:
    assert report_of("event+step", release, "checkpoint", 2, warm_up).races
    assert report_of("event+step+load", release, "checkpoint", 2, warm_up).races == ()
