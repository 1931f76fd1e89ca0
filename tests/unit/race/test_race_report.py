"""Reports of several ranks become one; text, story and picture say what the records hold."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Sequence
from pathlib import Path

import jsonschema
import pytest

from harness.cli.race import what_came_again
from harness.race.explore import Budget, Found, Search, explore, flips_of, turned_around
from harness.race.happens_before import Analysis
from harness.race.investigate import conclude
from harness.race.job import Flip, Job, Outcome, Program
from harness.race.memory import Footprint
from harness.race.merge import merge, rank_report
from harness.race.picture import picture
from harness.race.replay import Again, Values, changed_versions, read_replay, write_replay
from harness.race.report import (
    SCHEMA_FILE,
    Effect,
    Held,
    Instance,
    Place,
    Race,
    RankReport,
    Report,
    json_schema,
    label_of,
)
from harness.race.story import story
from harness.race.text import effect_text, ranks_text, summary, text
from harness.study import load_study
from harness.system.errors import HarnessError
from tests.conftest import StudyFile

COPY = (("deepspeed/runtime/zero/partition_parameters.py", 1946, "_partition_param_sec"),)
GATHER = (("deepspeed/runtime/zero/partition_parameters.py", 1353, "_all_gather_dtype"),)
STREAMS = {0: "compute", 1: "allgather_stream"}


def racy(rank: int, cases: int = 2) -> RankReport:
    analysis = Analysis(lambda storage, view: f"layers.{storage}.weight.ds_secondary_tensor", lambda: 3)
    for layer in range(cases):
        analysis.alloc(layer, 64, 0)
        analysis.op(2 * layer, "copy_", 0, [], [(layer, Footprint(0, 64))], COPY)
        analysis.op(2 * layer + 1, "cat", 1, [(layer, Footprint(0, 32))], [], GATHER)
    return rank_report(rank, analysis, STREAMS, digest=f"right{rank}")


def merged() -> Report:
    return merge([racy(0), racy(1), racy(3)], "train.py")


def test_the_same_pair_of_lines_on_several_ranks_is_one_race() -> None:
    (race,) = merged().races
    assert race.count == 6
    assert race.ranks == (0, 1, 3)
    assert race.names == {"layers.0.weight.ds_secondary_tensor": 3, "layers.1.weight.ds_secondary_tensor": 3}
    assert race.steps == (3,)


def test_equally_bad_races_stand_in_the_order_in_which_the_program_met_them() -> None:
    race = merged().races[0]
    case = next(iter(race.cases.values()))[0]
    later, earlier = (
        race.model_copy(update={"id": identity, "cases": {0: (case.model_copy(update={"first": first}),)}})
        for identity, first in (("0000000000", 2), ("ffffffffff", 1))
    )
    report = racy(0).model_copy(update={"races": (later, earlier)})
    assert [found.id for found in merge([report], "train.py").races] == ["ffffffffff", "0000000000"]


def test_a_race_known_by_name_is_called_by_it() -> None:
    assert merged().labels == {"hpz-secondary-copy"}


def test_the_step_copy_and_the_missing_copy_have_their_own_names() -> None:
    place = lambda function: Place(file="f", line=1, function=function)  # noqa: E731
    step, gather = place("_reassign_or_swap_out_partitioned_parameters"), place("_dist_allgather_fn")
    assert label_of("race", [step], [gather], []) == "step-partition-copy"
    assert label_of("unwritten-read", [gather], [gather], ["w.ds_secondary_tensor"]) == "hpz-missing-copy"
    assert label_of("race", [gather], [step], []) is None


def test_the_text_names_memory_streams_lines_and_ranks() -> None:
    shown = "\n".join(text(merged()))
    for part in (
        "RACE",
        "×6 on ranks 0, 1, 3",
        "layers.0.weight.ds_secondary_tensor",
        "WRITE copy_ on compute, bytes 0–63",
        "READ cat on allgather_stream, bytes 0–31",
        "partition_parameters.py:1946 _partition_param_sec",
    ):
        assert part in shown


def ran(*, ops: int, steps: int, ranks: int = 2) -> Report:
    one = rank_report(0, Analysis(), {}, steps=steps).model_copy(update={"ops": ops})
    return merge([one.model_copy(update={"rank": rank}) for rank in range(ranks)], "train.py")


def test_a_clean_report_says_so_and_how_much_ran() -> None:
    assert list(text(ran(ops=7, steps=3))) == ["train.py, 2 ranks, 3 steps, 14 ops: no unordered accesses"]


@pytest.mark.parametrize(
    ("ops", "steps", "headline", "then"),
    [
        (
            0,
            0,
            "FAILED before its first training step",
            "0 steps, 0 ops: nothing ran, so nothing was analysed",
        ),
        (4, 0, "FAILED before its first training step", "0 steps, 8 ops: too little to judge"),
        (4, 1, "FAILED after 1 step", "1 step, 8 ops: no unordered accesses"),
    ],
)
def test_a_program_that_failed_says_that_first(ops: int, steps: int, headline: str, then: str) -> None:
    failed = ran(ops=ops, steps=steps).model_copy(
        update={"problems": ("rank 0 failed: KeyError: 'x'", "and more")}
    )
    assert list(summary(failed)) == [
        f"train.py {headline}: rank 0 failed: KeyError: 'x'",
        "problem: and more",
        f"until then, train.py, 2 ranks, {then}",
    ]


def test_nothing_is_said_of_what_did_not_run() -> None:
    assert list(summary(ran(ops=0, steps=0, ranks=1))) == [
        "train.py, 1 rank, 0 steps, 0 ops: nothing ran, so nothing was analysed"
    ]


def test_a_report_that_had_to_forget_accesses_says_what_that_means() -> None:
    held = Held(storages_peak=1, accesses_peak=9, accesses_dominated=0, accesses_forgotten=3)
    report = merge([rank_report(0, Analysis(), {}).model_copy(update={"held": held})], "train.py")
    assert "3 accesses were forgotten for want of room: a race with them would be missed" in list(
        text(report)
    )


def test_ranks_are_named_shortly() -> None:
    assert [ranks_text(ranks) for ranks in ((2,), (0, 1, 2), (0, 2))] == ["rank 2", "ranks 0–2", "ranks 0, 2"]


def test_the_json_follows_the_documented_schema() -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    assert schema == json_schema(), "run: python -m harness.race.schemas"
    jsonschema.validate(json.loads(merged().model_dump_json()), schema)


def test_a_story_tells_each_swap_with_memory_bytes_and_step() -> None:
    (race,) = merged().races
    effect = Effect(found=True, schedules=1, changed="the loss of step 3 is 5.1 instead of 5.0")
    told = list(story([race], [Flip(0, 1)], effect))
    assert told[0].startswith(
        "ranks 0, 1, 3: cat on allgather_stream read layers.0.weight.ds_secondary_tensor bytes 0–31 in step 3 "
        "before copy_ on compute wrote them (ops 1 and 0;"
    )
    assert told[1] == "so the loss of step 3 is 5.1 instead of 5.0"


def test_the_picture_is_an_svg_with_a_lane_a_stream_and_the_missing_order() -> None:
    (race,) = merged().races
    drawn = picture(race, race.window, Flip(0, 1))
    ElementTree.fromstring(drawn)
    assert "allgather_stream" in drawn
    assert "nothing orders these" in drawn


def test_in_the_picture_of_a_schedule_the_early_read_stands_left_of_the_write() -> None:
    (race,) = merged().races
    drawn = picture(race, race.window, Flip(0, 1), executed={1: 0, 0: 1})
    assert drawn.index("READ cat") > 0
    assert drawn.index("cat&#10;" if "cat&#10;" in drawn else "cat\n") < drawn.index("copy_\n")


JOB = Job(Program(ranks=1, script="train.py"))


def outcome(*digests: str, problem: str | None = None, flips: Sequence[Flip] = ()) -> Outcome:
    """What ranks ended with, after a schedule in which these pairs were turned around."""
    reports = [racy(rank).model_copy(update={"digest": digest}) for rank, digest in enumerate(digests)]
    ran = [index for flip in flips for index in (flip.until, flip.hold)]
    return Outcome(tuple(reports), problem, order={index: place for place, index in enumerate(ran)})


def search(
    effect_of: set[Flip], policies: Collection[str] = (), stalls: Collection[int] = (), races: int = 1
) -> Search:
    """A search over a program whose values change exactly when all of `effect_of` is flipped.

    With as many flips as `stalls` says its ranks wait for each other.
    """

    def run(job: Job) -> Outcome:
        if len(job.flips) in stalls:
            return outcome("right", problem="no rank moved any more")
        wrong = job.policy in policies or (job.policy == "scripted" and effect_of <= set(job.flips))
        return outcome("wrong" if wrong else "right", flips=job.flips)

    found = merge([racy(0)], "train.py").races
    more = [
        race.model_copy(update={"id": f"race {at}", "cases": moved(race, at)})
        for race in found
        for at in range(races)
    ]
    return explore(more, outcome("right"), JOB, run, Budget())


def moved(race: Race, by: int) -> dict[int, tuple[Instance, ...]]:
    """The cases of a race, some ops later."""
    return {
        rank: tuple(
            case.model_copy(update={"first": case.first + 10 * by, "second": case.second + 10 * by})
            for case in cases
        )
        for rank, cases in race.cases.items()
    }


def test_the_pairs_of_a_race_are_flipped_and_shrunk_to_the_one_that_matters() -> None:
    found = search({Flip(2, 3)})
    (race,) = found.found.values()
    assert race.job.flips == (Flip(2, 3),)
    assert race.job.excerpt


def test_a_race_without_effect_is_said_to_have_none_after_so_many_schedules() -> None:
    found = search({Flip(77, 78)})
    assert not found.found
    assert found.tried == 7  # side-first, main-first, two seeds, all cases at once, each of two alone


def test_where_all_pairs_at_once_stall_the_ranks_single_pairs_are_tried() -> None:
    (race,) = search({Flip(0, 1)}, stalls=(2,)).found.values()
    assert race.job.flips == (Flip(0, 1),)


def test_an_effect_that_needs_the_pairs_of_two_races_belongs_to_both() -> None:
    found = search({Flip(0, 1), Flip(12, 13)}, policies=("side-first",), races=2)
    assert [one.races for one in found.found.values()] == [("race 0", "race 1")] * 2
    assert {Flip(0, 1), Flip(12, 13)} <= set(found.found["race 0"].job.flips)


def test_a_pair_that_was_not_executed_in_the_other_order_is_no_effect() -> None:
    races = merge([racy(0)], "train.py").races
    found = explore(races, outcome("right"), JOB, lambda job: outcome("wrong"), Budget())
    assert not found.found


def test_an_access_of_the_host_has_its_own_place_in_the_executed_order() -> None:
    (race,) = merge([racy(0)], "train.py").races
    on_host = race.model_copy(update={"second": race.second.model_copy(update={"stream": "host"})})
    assert turned_around(Flip(0, 1), [on_host], {~1: 0, 0: 1})
    assert not turned_around(Flip(0, 1), [on_host], {0: 0, ~1: 1, 1: 2})


def test_where_only_a_named_policy_changes_values_its_schedule_is_kept(tmp_path: Path) -> None:
    found = search({Flip(77, 78)}, policies=("main-first",))
    report = merge([racy(0)], "train.py")
    named = report.races[0].model_copy(update={"id": "race 0"})
    (race,) = conclude(report.model_copy(update={"races": (named,)}), found, tmp_path).races
    assert race.effect is not None
    assert not race.effect.found
    assert "values change under policy main-first; replay: hpz race --replay" in effect_text(race.effect)
    replay, job = read_replay(tmp_path / "replay-main-first.json")
    assert job.policy == "main-first"
    assert replay.expected.digests == ("wrong",)


def test_what_was_not_searched_says_so() -> None:
    shown = list(text(merged().model_copy(update={"schedules_tried": 9})))
    assert "  effect: not searched (the budget of races was spent)" in shown


def test_a_failure_is_reproduced_by_the_same_failure_alone() -> None:
    failed = [
        Values.of(outcome("right", problem=f"rank {rank} failed: {error}"))
        for rank, error in ((0, "KeyError"), (1, "KeyError"), (0, "OOM"))
    ]
    assert failed[0] == failed[1] != failed[2]


def test_a_replay_names_the_packages_that_have_changed(tmp_path: Path) -> None:
    (race,) = merge([racy(0)], "train.py").races
    found = search({Flip(0, 1)})
    write_replay(tmp_path / "replay.json", found.found["race 0"], (race,), ())
    replay, _ = read_replay(tmp_path / "replay.json")
    assert changed_versions(replay) == []
    old = replay.model_copy(update={"versions": {**replay.versions, "torch": "1.0"}})
    assert changed_versions(old) == [f"torch was 1.0, is {replay.versions['torch']}"]


RIGHT, WRONG = outcome("right"), outcome("wrong")
FAILED, STUCK = outcome(problem="rank 0 failed: OOM"), outcome(problem="stalled: ranks wait for each other")


@pytest.mark.parametrize(
    "here, issued, said",
    [
        (
            WRONG,
            (RIGHT, RIGHT),
            "shown again, with other values: the final values of rank 0 change (torch was",
        ),
        (
            FAILED,
            (RIGHT, RIGHT),
            "shown again, with other values: the program fails (rank 0 failed: OOM) (torch",
        ),
        (RIGHT, (RIGHT, RIGHT), "NOT reproduced: the values are those of the order of issue; torch was"),
        (STUCK, (RIGHT, RIGHT), "NOT reproduced: the program stalled: ranks wait for each other; torch was"),
        (
            WRONG,
            (RIGHT, outcome("another")),
            "NOT reproduced: the order of issue does not end twice alike here;",
        ),
        (
            WRONG,
            (FAILED, FAILED),
            "NOT reproduced: the program rank 0 failed: OOM in the order of issue too;",
        ),
        (
            WRONG,
            (STUCK, STUCK),
            "NOT reproduced: the program stalled: ranks wait for each other in the order of",
        ),
    ],
)
def test_a_replay_that_is_not_to_the_bit_shows_what_the_order_of_issue_here_does_not_give(
    here: Outcome, issued: tuple[Outcome, ...], said: str
) -> None:
    again = Again(same=False, outcome=here, issued=issued, changed=("torch was 1.0, is 2.0",))
    assert what_came_again(again).startswith(said)
    assert again.shows == said.startswith("shown")


def test_a_run_that_was_trained_with_another_python_is_analysed_with_the_text_of_this_one(
    study_file: StudyFile,
) -> None:
    run = load_study(study_file()).runs[0]
    elsewhere = run.model_copy(update={"data": run.data.model_copy(update={"sha256": "0" * 64})})
    assert Program.of_run(elsewhere) == Program.of_run(run)


@pytest.mark.parametrize("content", ["[]", '{"kind": "hpz race replay"}', "no JSON"])
def test_a_file_that_is_no_replay_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "replay.json").write_text(content)
    with pytest.raises(
        HarnessError, match=r"replay.json: is not a replay file; give one that hpz race wrote"
    ):
        read_replay(tmp_path / "replay.json")


def test_a_replay_of_a_script_that_has_changed_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("1")
    (race,) = merge([racy(0)], "train.py").races
    found = Found((race.id,), Job(Program(ranks=1, script=str(script))), outcome("wrong"), outcome("right"))
    write_replay(tmp_path / "replay.json", found, (race,), ())
    script.write_text("2")
    with pytest.raises(HarnessError, match=r"train.py is not the script that .*replay.json was found with"):
        read_replay(tmp_path / "replay.json")


def test_ranks_that_wait_for_each_other_under_a_schedule_are_no_effect() -> None:
    found = Search(
        outcome("right"), JOB, lambda job: outcome("wrong", problem="no rank moved any more"), None
    )  # type: ignore[arg-type]
    assert found.changes(JOB) is None


def test_a_program_that_fails_under_a_schedule_has_an_effect() -> None:
    found = Search(outcome("right"), JOB, lambda job: outcome("right", problem="rank 0 failed: x"), None)  # type: ignore[arg-type]
    assert found.changes(JOB) is not None


def test_flips_are_the_same_for_all_ranks() -> None:
    (race,) = merged().races
    assert flips_of(race) == [Flip(0, 1), Flip(2, 3)]
