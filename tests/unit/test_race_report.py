"""Reports of several ranks become one; text, story and picture say what the records hold."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import jsonschema

from harness.race.explore import Found, Search, explore, flips_of
from harness.race.happens_before import Analysis
from harness.race.launch import Flip, Job, Outcome, Program
from harness.race.memory import Footprint
from harness.race.picture import picture
from harness.race.report import (
    SCHEMA_FILE,
    Effect,
    Place,
    RankReport,
    Report,
    json_schema,
    label_of,
    merge,
    rank_report,
    ranks_text,
    text,
)
from harness.race.story import story

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


def test_a_clean_report_says_so() -> None:
    clean = merge([rank_report(0, Analysis(), {})], "train.py")
    assert list(text(clean)) == ["train.py, 1 rank, 0 ops: no unordered accesses"]


def test_ranks_are_named_shortly() -> None:
    assert [ranks_text(ranks) for ranks in ((2,), (0, 1, 2), (0, 2))] == ["rank 2", "ranks 0–2", "ranks 0, 2"]


def test_the_json_follows_the_documented_schema() -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    assert schema == json_schema(), "run: python -m harness.race.report > harness/race/races.schema.json"
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


def outcome(*digests: str, problem: str | None = None) -> Outcome:
    reports = [racy(rank).model_copy(update={"digest": digest}) for rank, digest in enumerate(digests)]
    return Outcome(tuple(reports), problem)


def search(effect_of: set[Flip], policies: set[str] = frozenset()) -> Search:
    """A search over a program whose values change exactly when all of `effect_of` is flipped."""

    def run(job: Job) -> Outcome:
        wrong = job.policy in policies or (job.policy == "scripted" and effect_of <= set(job.flips))
        return outcome("wrong" if wrong else "right")

    from harness.race.explore import Budget

    return explore(merge([racy(0)], "train.py").races, outcome("right"), JOB, run, Budget())


def test_the_pairs_of_a_race_are_flipped_and_shrunk_to_the_one_that_matters() -> None:
    found = search({Flip(2, 3)})
    (race,) = found.found.values()
    assert race.job.flips == (Flip(2, 3),)
    assert race.job.excerpt


def test_a_race_without_effect_is_said_to_have_none_after_so_many_schedules() -> None:
    found = search({Flip(77, 78)})
    assert not found.found
    assert found.tried == 5  # side-first, main-first, two seeds, one flip of all cases


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


def test_found_schedules_keep_their_races() -> None:
    (race,) = merged().races
    assert Found((race.id,), JOB, outcome("wrong")).races == (race.id,)
