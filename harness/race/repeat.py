"""Whether one schedule gives the same bits twice; where not, the first op that gave something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest

from harness.race.job import Job, Outcome
from harness.race.searched import Searched

Run = Callable[[Job], Outcome]


def repeated(job: Job, reference: Outcome, run: Run) -> tuple[Searched, Job, Outcome]:
    """Run the order of issue again and hold its values against those of `reference`, which is the same order.

    Returns what that showed, and the job and reference to search with: where no op differs and it is but a number among
    a script's globals that does, as a time that it took, numbers are left out of both; and what the host read, where
    that depends on when it looked.
    """
    again = run(job.under("scripted"))
    numbers = same(again, reference)
    if numbers:
        if again.reads == reference.reads:
            return Searched(repeatable=True, covered=reference.covered), job, reference
        if (
            reference.covered == "values"
        ):  # what is read by who asks whether it is there is no schedule's doing
            return Searched(repeatable=True), job, without_reads(reference)
    if again.problem is not None:
        return Searched(repeatable=False, differs_at=f"its end: {again.problem}"), job, reference
    one, other = (run(job.under("eager", values=True)) for _ in range(2))
    where = first_difference(one, other)
    if where is None:
        tensors = replace(job, numbers=numbers)
        first, second = (run(tensors.under("scripted")) for _ in range(2))
        if same(first, second):
            compared = with_digests_of(first, reference)
            compared = compared if first.reads == second.reads == reference.reads else without_reads(compared)
            searched = Searched(repeatable=True, numbers=numbers, covered=compared.covered)
            return searched, tensors, compared
    return Searched(repeatable=False, differs_at=where), job, reference


def same(one: Outcome, other: Outcome) -> bool:
    """Whether both came to their end with the same values."""
    return one.problem is None and (one.digests, one.losses) == (other.digests, other.losses)


def with_digests_of(values: Outcome, reference: Outcome) -> Outcome:
    """The reference, with the digests of another execution of the same order."""
    pairs = zip(reference.reports, values.digests, strict=True)
    reports = (report.model_copy(update={"digest": digest}) for report, digest in pairs)
    return replace(reference, reports=tuple(reports))


def without_reads(reference: Outcome) -> Outcome:
    """The reference, with its final values alone to compare."""
    return replace(
        reference,
        reports=tuple(report.model_copy(update={"reads": None}) for report in reference.reports),
    )


def first_difference(one: Outcome, other: Outcome) -> str | None:
    """The first op of any rank that gave something else, or is another op; None where all agree."""
    for rank, (mine, others) in enumerate(zip(one.values, other.values, strict=True)):
        for index, (a, b) in enumerate(zip_longest(mine, others, fillvalue="the end\t")):
            if a != b:
                first, second = a.partition("\t")[0], b.partition("\t")[0]
                where = f"op {index} of rank {rank}, {first}"
                return where if first == second else f"{where}, which is {second} the second time"
    return None
