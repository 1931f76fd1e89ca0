"""CUDA's names over the virtual device, and how a report speaks of scripts that do not end well."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from harness.race.investigate import analysed
from harness.race.job import Job, Program
from harness.race.launch import Ranks
from harness.race.text import summary
from harness.system.errors import HarnessError
from tests.deepspeed.race.race_help import SCRIPTS

NAMES = SCRIPTS / "cuda_names.py"
ASKED = [
    node.name
    for node in ast.parse(NAMES.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.decorator_list
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with Ranks(None, tmp_path_factory.mktemp("ranks"), map_cuda=True) as warm:
        yield warm


def job(script: str, *arguments: str, **changes: object) -> Job:
    program = Program(2, script=str(SCRIPTS / f"{script}.py"), arguments=arguments, map_cuda=True, **changes)  # type: ignore[arg-type]
    return Job(program)


def said(ranks: Ranks, *arguments: str, timeout: float = 240, **changes: object) -> list[str]:
    """The lines of the summary."""
    asked = job("endings", *arguments, **changes)
    return list(summary(analysed(asked, ranks.run(asked, timeout))))


@pytest.fixture(scope="module")
def answers(ranks: Ranks) -> dict[str, str]:
    """What each rank's log says of each thing that was asked; the worse where they differ."""
    outcome = ranks.run(job("cuda_names"), 240)
    assert outcome.problem is None
    found: dict[str, str] = {}
    for rank in range(2):
        log = (ranks.scratch / f"job-{ranks.jobs - 1}" / f"log-{rank}.txt").read_text()
        for line in re.findall(r"^((?:OK|FAIL) .*)$", log, re.M):
            name = line.split()[1]
            found[name] = min(line, found.get(name, line))
    return found


@pytest.mark.parametrize("name", ASKED)
def test_what_scripts_ask_of_cuda_is_answered(answers: dict[str, str], name: str) -> None:
    assert answers[name] == f"OK {name}"


def findings(ranks: Ranks, script: str, *arguments: str) -> list[str]:
    task = job(script, *arguments)
    return [race.kind for race in analysed(task, ranks.run(task, 240)).races]


def test_data_parallel_waits_for_its_gradients_at_the_end_of_the_pass(ranks: Ranks) -> None:
    assert findings(ranks, "data_parallel") == []
    assert "race" in findings(ranks, "data_parallel", "early")


def test_what_cannot_be_mapped_is_one_sentence_with_the_line(ranks: Ranks) -> None:
    with pytest.raises(
        HarnessError, match=r"endings.py:\d+ \(.*CUDAGraph.*\): torch.cuda.CUDAGraph cannot be mapped"
    ):
        said(ranks, "graph")


def test_a_package_that_needs_a_gpu_says_what_to_switch_off(ranks: Ranks) -> None:
    with pytest.raises(
        HarnessError, match=r"endings.py:\d+ .* needs flash_attn.* switch off attn_implementation"
    ):
        said(ranks, "flash")


def test_the_exception_is_named_and_not_the_progress_bar_below_it(ranks: Ranks) -> None:
    assert re.match(
        r"endings.py FAILED before its first training step: rank \d failed: ValueError: the real reason",
        said(ranks, "bar")[0],
    )


def test_a_rank_that_others_wait_for_is_named_with_the_line(ranks: Ranks) -> None:
    headline = said(ranks, "rank0")[0]
    assert re.match(
        r"endings.py FAILED after 1 step: rank 0 waits at endings.py:\d+ "
        r'\(engine.save_checkpoint\("out"\)\) for rank 1, which never comes there',
        headline,
    )


def test_an_engine_that_takes_no_step_is_not_reported_as_clean(ranks: Ranks) -> None:
    assert said(ranks, "idle")[0].startswith("endings.py TRAINED NOTHING: an engine was made")


def test_ranks_that_never_meet_are_not_reported_as_clean(ranks: Ranks) -> None:
    assert "each ran alone" in said(ranks, "alone")[0]


def test_a_number_of_steps_ends_a_script_that_would_go_on(ranks: Ranks) -> None:
    assert said(ranks, "endless", steps=3)[0].startswith("endings.py, 2 ranks, 3 steps, ")


def test_steps_are_counted_where_no_engine_is(ranks: Ranks) -> None:
    asked = job("data_parallel", steps=2)
    headline = next(iter(summary(analysed(asked, ranks.run(asked, 240)))))
    assert headline.startswith("data_parallel.py, 2 ranks, 2 steps, ")


def test_what_the_others_had_seen_is_reported_when_one_rank_fails(ranks: Ranks) -> None:
    """A rank that is ended from outside, as at the time limit, writes down what it has analysed."""
    outcome = ranks.run(job("endings", "dies"), 240)
    assert str(outcome.problem).startswith("rank 1 failed: KeyError: 'no such layer'")
    assert [report.rank for report in outcome.reports] == [0, 1]
    assert all(report.ops > 100 and report.steps == 2 for report in outcome.reports)
