"""The `simulate` part of a study: what it expands to, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from harness.simulate.plan import cells, settings_of
from harness.simulate.traces import trace_key
from harness.study import Study, load_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from tests.conftest import StudyFile

BLOCK = {"model": "llama2-toy", "variant": ["zero3", "fixed"], "shape": "2x2-hpz2"}


@pytest.fixture
def study(study_file: StudyFile) -> Any:
    def make(**simulate: Any) -> Study:
        return load_study(study_file(simulate=simulate))

    return make


def test_the_paper_asks_for_every_size_ordering_and_network() -> None:
    planned = [
        cell for cell in cells(load_study(REPOSITORY / "experiments/paper.yaml")) if cell.table == "sync_cost"
    ]
    assert {cell.run.model for cell in planned} == {
        "llama2-7b",
        "llama2-13b",
        "llama2-70b",
        "falcon-7b",
        "falcon-40b",
    }
    assert {cell.run.variant for cell in planned} == {"zero3", "unordered", "fixed", "device-sync", "event"}
    assert len({cell.network for cell in planned}) == 5


def test_the_paper_scales_to_1024_gpus() -> None:
    planned = cells(load_study(REPOSITORY / "experiments/paper.yaml"))
    assert max(cell.run.shape.world_size for cell in planned if cell.table == "scaling") == 1024


def test_a_cell_is_a_run_on_a_network(study: Any) -> None:
    planned = cells(study(networks=["ethernet-25gbps", "infiniband-200gbps"], sync_cost=[BLOCK]))
    assert [(cell.run.variant, cell.network) for cell in planned] == [
        ("zero3", "ethernet-25gbps"),
        ("zero3", "infiniband-200gbps"),
        ("fixed", "ethernet-25gbps"),
        ("fixed", "infiniband-200gbps"),
    ]
    assert planned[0].cluster.network.bits_per_second == 25e9


def test_the_host_is_an_axis(study: Any) -> None:
    planned = cells(study(sync_cost=[{**BLOCK, "variant": "fixed", "host": ["server", "slow-server"]}]))
    assert [cell.cluster.host.launch_seconds for cell in planned] == [20e-6, 40e-6]


def test_zero_sizes_are_axes(study: Any) -> None:
    block = {
        **BLOCK,
        "variant": "unordered",
        "stage3_prefetch_bucket_size": [0, 5000],
        "network": "ethernet-25gbps",
    }
    planned = cells(study(windows=[block]))
    sizes = [cell.run.deepspeed["zero_optimization"]["stage3_prefetch_bucket_size"] for cell in planned]
    assert sizes == [0, 5000]


def test_a_study_without_settings_is_simulated_as_it_stands(study_file: StudyFile) -> None:
    planned = cells(load_study(study_file()))
    assert [cell.run.variant for cell in planned] == ["fixed"]
    assert {cell.network for cell in planned} == {"ethernet-12.5gbps"}


def test_a_trace_does_not_depend_on_seed_or_learning_rate(study_file: StudyFile) -> None:
    (first, *_), (second, *_) = (
        load_study(study_file(training={"learning_rate": rate, "steps": 4, "micro_batch": 1})).runs
        for rate in (1e-3, 2e-3)
    )
    assert first.run_id != second.run_id
    assert trace_key(first) == trace_key(second)


def test_a_trace_depends_on_the_variant(study: Any) -> None:
    planned = cells(study(sync_cost=[{**BLOCK, "variant": ["fixed", "event"]}]))
    assert len({trace_key(cell.run) for cell in planned}) == 2


@pytest.mark.parametrize(
    ("simulate", "message"),
    [
        ({"windowz": []}, r"simulate\.windowz is not a key; did you mean 'windows'"),
        (
            {"networks": ["carrier-pigeon"]},
            r"simulate\.networks: 'carrier-pigeon' is not among networks",
        ),
        ({"gpu": "a100-sxm-80gbb"}, r"simulate\.gpu: .* did you mean 'a100-sxm-80gb'"),
        (
            {"sync_cost": [{**BLOCK, "netwrok": "x"}]},
            r"simulate\.sync_cost\[0\]\.netwrok is not an axis; did you mean",
        ),
        (
            {"sync_cost": [{"model": "llama2-toy", "shape": "2x2-hpz2"}]},
            r"simulate\.sync_cost\[0\] lacks variant",
        ),
        ({"sync_cost": [{**BLOCK, "variant": "evnt"}]}, r"simulate\.sync_cost\[0\]: 'evnt' is not a variant"),
        (
            {"sync_cost": [{**BLOCK, "network": "tin-cans"}]},
            r"simulate\.sync_cost\[0\]: 'tin-cans' is not among networks",
        ),
        ({"gpu": "a100-sxm-80gb"}, r"simulate: names no cells; give blocks under sync_cost, .* or hpz_sizes"),
    ],
)
def test_what_is_wrong_is_named(study: Any, simulate: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        cells(study(**simulate))


def test_lanes_default_to_two(study: Any) -> None:
    assert settings_of(study(sync_cost=[BLOCK])).lanes == 2
