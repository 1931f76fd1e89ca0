"""Known faults: the answer for a release, a configuration and a world."""

from __future__ import annotations

from typing import Any

import pytest

from harness.diagnose import Exposure, Setup, exposures
from harness.diagnose.faults import FAULTS, Answer
from harness.system.errors import HarnessError


def config(hpz: int = 8, **changes: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": hpz, **changes}}


def ask(fault: str, release: str, settings: dict[str, Any] | None = None, **known: Any) -> Exposure:
    found = exposures(Setup(release=release, config=settings if settings is not None else config(), **known))
    return next(one for one in found if one.fault == fault)


@pytest.mark.parametrize(
    ("fault", "last_with", "first_without"),
    [
        ("race", "0.13.4", "0.13.5"),
        ("stale secondary", "0.13.1", "0.13.2"),
    ],
)
def test_fault_ends_with_its_fix(fault: str, last_with: str, first_without: str) -> None:
    assert ask(fault, last_with).exposed == "yes"
    assert ask(fault, first_without).exposed == "no"


@pytest.mark.parametrize(
    ("fault", "last_with", "first_without"),
    [
        ("missing copy", "0.13.4", "0.13.5"),
        ("tiny parameters", "0.19.4", "0.19.5"),
        ("dirty after load", "0.18.2", "0.18.3"),
        ("hang", "0.13.4", "0.13.5"),
    ],
)
def test_what_the_configuration_does_not_say_is_unknown(
    fault: str, last_with: str, first_without: str
) -> None:
    assert ask(fault, last_with, world_size=48).exposed == "unknown"
    assert ask(fault, first_without, world_size=48).exposed == "no"


def test_stale_weights_came_with_0_10_3() -> None:
    assert ask("stale secondary", "0.10.2").exposed == "no"
    assert ask("stale secondary", "0.10.3").exposed == "yes"


def test_no_release_before_hpz_has_its_faults() -> None:
    assert ask("race", "0.9.5").reason == "0.9.5 does not have it; releases from 0.10.0 to before 0.13.5 do"


def test_one_stream_ends_the_race() -> None:
    assert ask("race", "0.13.4", config(overlap_comm=False)).exposed == "no"


@pytest.mark.parametrize("settings", [{}, {"zero_optimization": {"stage": 2}}, config(hpz=1)])
def test_without_hpz_its_faults_are_out_of_question(settings: dict[str, Any]) -> None:
    found = exposures(Setup(release="0.13.4", config=settings))
    assert {one.exposed for one in found if one.fault != "optimizer step"} == {"no"}


@pytest.mark.parametrize(
    ("numels", "world", "hpz", "answer"),
    [
        ((4096,), 16, 8, "no"),
        ((4096,), 48, 8, "yes"),
        ((4096,), 8, 8, "no"),
        (None, 8, 8, "no"),
        (None, 48, 8, "unknown"),
    ],
)
def test_missing_copy_is_a_matter_of_sizes(
    numels: tuple[int, ...] | None, world: int, hpz: int, answer: Answer
) -> None:
    assert ask("missing copy", "0.13.4", config(hpz), world_size=world, numels=numels).exposed == answer


def test_tiny_parameters_are_found_by_size() -> None:
    assert ask("tiny parameters", "0.18.0", world_size=16, numels=(4096, 1)).exposed == "yes"
    assert ask("tiny parameters", "0.18.0", world_size=16, numels=(4096,)).exposed == "no"
    assert "give --world-size" in ask("tiny parameters", "0.18.0").reason


def test_offloading_with_hpz_is_reported_and_open() -> None:
    found = ask("offload", "0.19.8", config(offload_param={"device": "cpu"}))
    assert found.exposed == "yes"
    assert "offload_param" in found.reason
    assert ask("offload", "0.19.8", config(offload_param={"device": "none"})).exposed == "no"


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({}, "no"),
        ({"timers": {"throughput": {"enabled": False}}}, "yes"),
        ({"timers": {"throughput": {"synchronized": False}}}, "yes"),
        ({"gradient_accumulation_steps": 4}, "yes"),
        ({"gradient_accumulation_steps": "auto"}, "unknown"),
    ],
)
def test_optimizer_step_is_covered_by_a_timer(settings: dict[str, Any], answer: Answer) -> None:
    assert ask("optimizer step", "0.19.8", {**config(hpz=1), **settings}).exposed == answer


def test_micro_batches_follow_from_the_batch_sizes() -> None:
    sizes = {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 2}
    assert ask("optimizer step", "0.19.8", config(hpz=1) | sizes, world_size=8).exposed == "yes"
    assert ask("optimizer step", "0.19.8", config(hpz=1) | sizes, world_size=32).exposed == "no"


@pytest.mark.parametrize(("release", "answer"), [("0.13.4", "yes"), ("0.16.0", "unknown"), ("0.18.0", "no")])
def test_the_optimizer_step_was_uncovered_in_early_releases(release: str, answer: Answer) -> None:
    assert ask("optimizer step", release, config(hpz=1)).exposed == answer


def test_groups_must_fit_in_a_node() -> None:
    assert ask("groups across nodes", "0.19.8", world_size=16, ranks_per_node=8).exposed == "no"
    assert ask("groups across nodes", "0.19.8", world_size=16, ranks_per_node=4).exposed == "yes"
    assert ask("groups across nodes", "0.19.8").exposed == "unknown"


def test_every_yes_has_a_way_out_and_every_fault_a_source() -> None:
    found = exposures(
        Setup(release="0.13.4", config=config(), world_size=48, ranks_per_node=6, numels=(7, 4096))
    )
    assert all(one.way_out for one in found if one.exposed == "yes")
    assert all(fault.source for fault in FAULTS)


@pytest.mark.parametrize(
    ("setup", "sentence"),
    [
        (Setup(release="newest", config={}), "release: 'newest' is not a version such as 0.13.4"),
        (
            Setup(release="0.19.8", config={"zero_optimization": 3}),
            "config: zero_optimization must be an object, not 3",
        ),
        (
            Setup(release="0.19.8", config=config(offload_param="cpu")),
            "config: zero_optimization.offload_param must be an object, not 'cpu'",
        ),  # type: ignore[arg-type]
        (
            Setup(release="0.19.8", config={"timers": {"throughput": 4}}),
            "config: timers.throughput must be an object, not 4",
        ),
        (
            Setup(release="0.19.8", config=config(hpz="auto")),
            "zero_hpz_partition_size='auto' must be a whole number",
        ),  # type: ignore[arg-type]
        (Setup(release="0.19.8", config=config(), world_size=0), "the world size must be at least 1, not 0"),
        (
            Setup(release="0.19.8", config=config(), world_size=12),
            "zero_hpz_partition_size=8 must divide the world size 12; use 1, 2, 3, 4, 6, 12",
        ),
    ],
)
def test_unusable_input_is_one_sentence(setup: Setup, sentence: str) -> None:
    with pytest.raises(HarnessError, match=sentence):
        exposures(setup)
