"""What hosts read of the device, as it is counted and compared."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from harness.race.effects import what_changed
from harness.race.explore import differs
from harness.race.investigate import in_its_loop
from harness.race.job import Job, Outcome, Program
from harness.race.reads import Reader
from harness.race.repeat import repeated
from harness.race.report import Coverage, Effect, Held, Instance, RankReport, Reads
from harness.race.text import effect_text
from tests.unit.race.test_race_words import race, report


def told(*seen: object) -> Reader:
    reader = Reader()
    for one in seen:
        reader(one)
    return reader


def outcome(*seen: object, digest: str = "same", left: bool = False) -> Outcome:
    held = Held(storages_peak=0, accesses_peak=0, accesses_dominated=0, accesses_forgotten=0)
    report = RankReport(rank=0, ops=1, races=(), costs=(), held=held, coverage=Coverage(), digest=digest)
    return Outcome((report.model_copy(update={"left": left, "reads": told(*seen).reads()}),))


@pytest.mark.parametrize("other", [0.25, torch.ones(3), (2, 3), float("nan")])
def test_whatever_is_read_otherwise_differs(other: object) -> None:
    assert told(0.5).reads() != told(other).reads()
    assert told(other).reads() == told(other).reads()


def test_a_host_that_reads_nothing_has_nothing_to_compare() -> None:
    assert Reader().reads() is None
    assert outcome().covered == "nothing"
    assert outcome(left=True).covered == "values"
    assert outcome(1.0).covered == "reads"


def test_of_several_threads_it_does_not_matter_which_reads_first() -> None:
    def read_by_two(order: Sequence[float]) -> Reads | None:
        reader = Reader()
        for number in order:
            thread = threading.Thread(target=reader, args=(number,))
            thread.start()
            thread.join()
        return reader.reads()

    assert read_by_two((1.0, 2.0)) == read_by_two((2.0, 1.0)) != read_by_two((2.0, 3.0))


def test_the_first_number_that_is_read_otherwise_is_said_with_its_line() -> None:
    right, wrong = outcome(1.0, torch.tensor(0.5)), outcome(1.0, torch.tensor(0.25))
    assert differs(right, wrong)
    said = what_changed(right, wrong)
    assert said.startswith("what rank 0 reads at tests/unit/race/test_race_reads.py:")
    assert said.endswith("told is 0.25 instead of 0.5")


def test_a_tensor_that_is_read_otherwise_is_said_by_its_rank() -> None:
    assert what_changed(outcome(torch.ones(3)), outcome(torch.zeros(3))) == (
        "what the host of rank 0 reads changes"
    )


def test_final_values_that_change_are_said_before_what_was_read() -> None:
    assert what_changed(outcome(1.0), outcome(2.0, digest="other")) == "the final values of rank 0 change"


def test_what_differs_each_time_is_not_compared_where_values_are_left() -> None:
    """A program that looks whether a copy has come, and reads it if so, reads as its schedule has it."""
    job = Job(Program(ranks=1, script="train.py"))
    searched, _, reference = repeated(job, outcome(1.0, left=True), lambda job: outcome(1.0, 1.0, left=True))
    assert searched.repeatable
    assert not differs(reference, outcome(1.0, 1.0, left=True))


def test_a_race_after_the_last_step_is_searched_in_the_whole_program() -> None:
    job, whole = Job(Program(ranks=1, script="train.py")), outcome(1.0)
    found = report(race("race")).model_copy(update={"steps": 2})
    case = Instance(first=5, second=7, name="x", low=0, high=4)
    found = found.model_copy(update={"races": (found.races[0].model_copy(update={"cases": {0: (case,)}}),)})
    for issued, steps in ((8, 2), (7, None)):
        ended = replace(outcome(left=True), issued=(issued,))
        searched, _ = in_its_loop(job, whole, found, lambda job, ended=ended: ended)  # type: ignore[misc]
        assert searched.program.steps == steps


def test_policies_under_which_the_program_fails_are_not_said_to_change_values() -> None:
    fails = "the program fails (rank 0 failed: IndexError: Target 3 is out of bounds)"
    effect = Effect(
        found=False, schedules=9, also=("main-first", "random(1)"), failing=("main-first",), changed=fails
    )
    assert effect_text(effect) == (
        f"effect: none found of these accesses alone in 9 schedules; {fails} under policy main-first and "
        "the program's values change under policy random(1)"
    )


def test_where_nothing_was_compared_none_found_is_not_said() -> None:
    assert effect_text(Effect(found=False, schedules=9, compared=False)) == (
        "effect: no failure in 9 schedules; values were not compared (see above)"
    )
