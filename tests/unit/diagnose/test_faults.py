"""Known faults: the answer for a release, a configuration and a world."""

from __future__ import annotations

from typing import Any

import pytest

from harness.diagnose import Exposure, Setup, exposures
from harness.diagnose.doctor import PREFIX
from harness.diagnose.facts import FACTS
from harness.diagnose.faults import Fault, named, table
from harness.diagnose.judges import JUDGES, Answer
from harness.diagnose.setup import judged_as
from harness.system.errors import HarnessError
from harness.variants import Variant


def config(hpz: int = 8, **changes: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": hpz, **changes}}


def ask(fault: str, release: str | None, settings: dict[str, Any] | None = None, **known: Any) -> Exposure:
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
    assert ask(fault, first_without).exposed == "safe by release"


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
    assert ask(fault, last_with, world_size=64).exposed == "unknown"
    assert ask(fault, first_without, world_size=64).exposed == "safe by release"


def test_stale_weights_came_with_0_10_3() -> None:
    assert ask("stale secondary", "0.10.2").exposed == "safe by release"
    assert ask("stale secondary", "0.10.3").exposed == "yes"


def test_the_race_was_open_twice_and_what_lies_between_says_why_not() -> None:
    assert [ask("race", release).exposed for release in ("0.10.0", "0.10.1", "0.13.1", "0.13.2")] == [
        "yes",
        "safe by release",
        "safe by release",
        "yes",
    ]
    assert ask("race", "0.10.2").reason.startswith(
        "0.10.2 does not have it; 0.10.0 and 0.13.2 to 0.13.4 do: nothing orders the copy here either"
    )
    assert "covered by luck, not by design" in ask("race", "0.10.2").reason
    assert "written once and kept" in ask("race", "0.12.6").reason


@pytest.mark.parametrize(
    ("micro_batches", "answer"), [(1, "yes"), (4, "safe by setting"), ("auto", "unknown")]
)
def test_accumulation_covers_the_race_of_0_10_0_alone(micro_batches: Any, answer: Answer) -> None:
    settings = config() | {"gradient_accumulation_steps": micro_batches}
    assert ask("race", "0.10.0", settings).exposed == answer
    assert ask("race", "0.13.4", settings).exposed == "yes"


def test_a_release_before_hpz_knows_neither_the_key_nor_its_faults() -> None:
    found = ask("race", "0.9.5")
    assert (found.exposed, found.reason) == ("not applicable", "0.9.5 has no hpZ, which came with 0.10.0")
    assert ask("no ZeRO++", "0.9.5").exposed == "yes"
    found = ask("optimizer step", "0.9.5")
    assert (found.exposed, found.reason) == ("not examined", "releases before 0.10.0 were not looked at")


@pytest.mark.parametrize(
    ("release", "sentence"),
    [
        ("0.19.8", ""),
        ("0.13.4+cu128", ""),
        ("0.20.1", "0.20.1 is newer than the newest known release, 0.19.8; judged as that"),
        ("0.16.15", "0.16.15 is not a known release; judged as 0.16.9"),
        (
            "0.9.5",
            "0.9.5 is older than the first release with hpZ, 0.10.0; no fault of hpZ is in it, and ZeRO-3's own were "
            "not looked for there",
        ),
    ],
)
def test_what_is_assumed_of_an_unknown_release_is_one_sentence(release: str, sentence: str) -> None:
    assert judged_as(release) == sentence


def test_a_release_that_is_newer_than_all_is_judged_as_the_newest() -> None:
    newest, newer = (exposures(Setup(release=release, config=config())) for release in ("0.19.8", "0.20.1"))
    assert [one.exposed for one in newer] == [one.exposed for one in newest]


def test_one_stream_ends_the_race() -> None:
    assert ask("race", "0.13.4", config(overlap_comm=False)).exposed == "safe by setting"


def applying(setup: Setup) -> set[str]:
    return {one.fault for one in exposures(setup) if one.exposed == "yes"}


@pytest.mark.parametrize(
    ("settings", "release", "faults"),
    [
        ({}, "0.13.4", set()),
        ({"zero_optimization": {"stage": 2}}, "0.13.4", set()),
        (config(hpz=1), "0.13.4", {"optimizer step"}),
        (
            {"zero_optimization": {"stage": 2, "overlap_comm": True}},
            "0.14.0",
            {"bucket reused", "bucket freed"},
        ),
        (
            {"zero_optimization": {"stage": 2, "overlap_comm": True}},
            "0.17.3",
            {"bucket freed", "bucket index"},
        ),
        ({"zero_optimization": {"stage": 1, "overlap_comm": True}}, "0.19.8", set()),
        ({"zero_optimization": {"stage": 2, "zero_hpz_partition_size": 8}}, "0.19.8", {"no effect: stage"}),
    ],
)
def test_without_hpz_the_faults_of_the_other_stages_remain(
    settings: dict[str, Any], release: str, faults: set[str]
) -> None:
    assert applying(Setup(release=release, config=settings)) == faults


def test_what_is_not_examined_is_said_for_the_keys_that_are_there() -> None:
    def unseen(**changes: Any) -> set[str]:
        found = exposures(Setup(release="0.16.9", config=config(**changes)))
        return {one.fault for one in found if one.exposed == "not examined"}

    assert unseen() == set()
    assert unseen(zero_quantized_gradients=True) == {"quantised gradients"}
    assert unseen(mics_shard_size=16, zero_quantized_weights=True) == {"MiCS", "quantised weights"}


def test_without_a_release_the_settings_answer_and_the_rest_asks_for_it() -> None:
    assert ask("race", None, config(overlap_comm=False)).exposed == "safe by setting"
    assert ask("race", None).needs == "give --release: 0.10.0 and 0.13.2 to 0.13.4 do"


def test_a_release_alone_rules_out_what_it_does_not_have() -> None:
    found = {one.fault: one for one in exposures(Setup(release="0.19.8", config={}, has_config=False))}
    assert found["race"].exposed == "safe by release"
    assert found["offload"].exposed == "unknown"


@pytest.mark.parametrize(
    ("torch", "answer"), [("2.9.1", "safe by setting"), ("2.10.0", "yes"), (None, "unknown")]
)
def test_a_fault_of_a_newer_torch_depends_on_it(torch: str | None, answer: Answer) -> None:
    assert ask("zero-3 default stream", "0.18.0", torch=torch).exposed == answer
    assert ask("zero-3 default stream", "0.18.8", torch=torch).exposed == "safe by release"


def test_a_script_answers_what_no_configuration_says() -> None:
    assert ask("second model", "0.19.8").of_script
    assert ask("second model", "0.19.8", facts=frozenset({"two zero.Init"})).exposed == "yes"
    assert ask("second model", "0.19.8", facts_read=True).exposed == "safe by setting"
    compiled = {"facts": frozenset({"compile"}), "facts_read": True}
    stage2 = {"zero_optimization": {"stage": 2, "overlap_comm": True}}
    assert ask("several producers", "0.19.0", stage2, **compiled).exposed == "yes"


def test_quantised_weights_want_multiples_of_8_on_every_rank() -> None:
    settings = config(zero_quantized_weights=True)
    assert ask("quantised weights: size", "0.10.3", settings, world_size=24).exposed == "yes"
    known = {"world_size": 16, "numels": (4096 * 4096, 4096)}
    assert ask("quantised weights: size", "0.10.3", settings, **known).exposed == "safe by setting"


@pytest.mark.parametrize(
    ("numels", "world", "hpz", "answer"),
    [
        ((4096,), 16, 8, "safe by setting"),
        ((4096,), 48, 8, "yes"),
        ((4096,), 8, 8, "safe by setting"),
        (None, 8, 8, "safe by setting"),
        (None, 64, 8, "unknown"),
        (None, 48, 8, "yes"),
    ],
)
def test_missing_copy_is_a_matter_of_sizes(
    numels: tuple[int, ...] | None, world: int, hpz: int, answer: Answer
) -> None:
    assert ask("missing copy", "0.13.4", config(hpz), world_size=world, numels=numels).exposed == answer


def test_tiny_parameters_are_found_by_size() -> None:
    assert ask("tiny parameters", "0.18.0", world_size=16, numels=(4096, 1)).exposed == "yes"
    assert ask("tiny parameters", "0.18.0", world_size=16, numels=(4096,)).exposed == "safe by setting"
    assert "give --world-size" in ask("tiny parameters", "0.18.0").reason


def test_the_old_copy_stops_at_other_sizes_than_the_new_one() -> None:
    found = {
        release: ask("tiny parameters", release, config(2), world_size=6, numels=(7,)).exposed
        for release in ("0.13.4", "0.13.5")
    }
    assert found == {"0.13.4": "yes", "0.13.5": "safe by setting"}


@pytest.mark.parametrize(
    ("release", "how", "effect"),
    [
        ("0.10.2", "(load_checkpoint before the first step)", "the first step's gradients"),
        ("0.13.1", "(load_checkpoint before the first step)", "gathered ever after"),
        ("0.14.2", "(load_checkpoint before the first step)", "the first step's loss"),
        ("0.14.3", "from_pretrained under zero.Init, GatheredParameters)", "the first step's loss"),
    ],
)
def test_what_a_load_leaves_out_of_date_depends_on_the_release(release: str, how: str, effect: str) -> None:
    reason = ask("dirty after load", release).reason
    assert how in reason and effect in reason


@pytest.mark.parametrize("release", ["0.10.0", "0.13.4", "0.19.8"])
@pytest.mark.parametrize(("hpz", "variant"), [(8, "event+step+load"), (1, "zero3+step+load")])
def test_nobody_can_tell_from_a_configuration_what_writes_between_passes(
    release: str, hpz: int, variant: str
) -> None:
    found = ask("write between passes", release, config(hpz))
    assert found.exposed == "unknown"
    assert f"hpz patch path {variant}`" in found.way_out
    assert Variant.parse(variant).name == variant
    assert ask("write between passes", release, config(hpz, overlap_comm=False)).exposed == "safe by setting"


def test_offloading_with_hpz_is_reported_and_open() -> None:
    found = ask("offload", "0.19.8", config(offload_param={"device": "cpu"}))
    assert found.exposed == "yes"
    assert "offload_param" in found.reason
    assert ask("offload", "0.19.8", config(offload_param={"device": "none"})).exposed == "not applicable"


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({}, "safe by setting"),
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
    assert ask("optimizer step", "0.19.8", config(hpz=1) | sizes, world_size=32).exposed == "safe by setting"


@pytest.mark.parametrize(
    ("release", "answer"), [("0.10.0", "yes"), ("0.15.3", "yes"), ("0.15.4", "safe by setting")]
)
def test_the_optimizer_step_was_uncovered_in_early_releases(release: str, answer: Answer) -> None:
    assert ask("optimizer step", release, config(hpz=1)).exposed == answer


def test_the_timer_could_not_be_switched_off_before_0_14_3() -> None:
    switched_off = config(hpz=1) | {"timers": {"throughput": {"enabled": False}}}
    assert "before the third step" in ask("optimizer step", "0.14.2", switched_off).reason
    assert "timers.throughput.enabled is false" in ask("optimizer step", "0.14.3", switched_off).reason


def test_groups_must_fit_in_a_node() -> None:
    assert ask("groups across nodes", "0.19.8", world_size=16, ranks_per_node=8).exposed == "safe by setting"
    assert ask("groups across nodes", "0.19.8", world_size=16, ranks_per_node=4).exposed == "yes"
    assert ask("groups across nodes", "0.19.8").exposed == "unknown"


def test_every_yes_has_a_way_out_and_every_fault_a_source() -> None:
    found = exposures(
        Setup(release="0.13.4", config=config(), world_size=48, ranks_per_node=6, numels=(7, 4096))
    )
    assert all(one.way_out for one in found if one.exposed == "yes")
    assert all(fault.source and fault.sees and fault.fix for fault in table())


@pytest.mark.parametrize(
    ("setup", "sentence"),
    [
        (Setup(release="newest", config={}), "release: 'newest' is not a version such as 0.13.4"),
        (Setup(release="0.19.x", config={}), "release: '0.19.x' is not a version such as 0.13.4"),
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
            Setup(release="0.19.8", config=config(), world_size=10**20),
            "the world size must be between 1 and 1,000,000, not 100000000000000000000",
        ),
        (
            Setup(release="0.19.8", config={"zero_optimization": {"stage": 30}}),
            "config: zero_optimization.stage=30 is none of DeepSpeed's: 0, 1, 2, 3",
        ),
        (Setup(release="0.19.8", config={}, torch="abc"), "torch: 'abc' is not a version such as 2.4.0"),
        (
            Setup(release="0.19.8", config=config(), world_size=0),
            "the world size must be between 1 and 1,000,000, not 0",
        ),
        (
            Setup(release="0.19.8", config=config(), world_size=12),
            "zero_hpz_partition_size=8 must divide the world size 12; use 1, 2, 3, 4, 6, 12",
        ),
    ],
)
def test_unusable_input_is_one_sentence(setup: Setup, sentence: str) -> None:
    with pytest.raises(HarnessError, match=sentence):
        exposures(setup)


def test_the_table_is_large_enough_and_its_ids_differ() -> None:
    ids = [fault.id for fault in table()]
    assert len(ids) == len(set(ids)) >= 30
    assert {name for fault in table() for name in fault.when} <= FACTS.keys()
    assert {fault.judge for fault in table()} <= {"", *JUDGES}


@pytest.mark.parametrize("fault", table(), ids=lambda fault: fault.id)
def test_a_fault_can_be_said_in_one_line_for_everybody(fault: Fault) -> None:
    prefix = max(PREFIX[fault.harm], "Possible", key=len)
    assert len(f"{prefix}: {fault.plain}. First: {fault.first}.") <= 80
    assert not (fault.plain + fault.first).count(".  ") and fault.first[-1] != "."


def test_a_fault_is_found_by_its_name_as_people_write_it() -> None:
    assert named("Missing-Copy").id == "missing copy"
    with pytest.raises(
        HarnessError, match="'bucket' is no known fault; known are: bucket reused, bucket freed"
    ):
        named("bucket")
