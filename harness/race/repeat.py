"""Whether one schedule gives the same bits twice; where not, the first op that gave something else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest

from harness.race.job import Job, Outcome
from harness.race.searched import Searched

Run = Callable[[Job], Outcome]


def repeated(job: Job, reference: Outcome, run: Run) -> Searched:
    """Run the order of issue again and hold its values against those of `reference`, which is the same order."""
    again = run(job.under("scripted"))
    if again.problem is None and (again.digests, again.losses) == (reference.digests, reference.losses):
        return Searched(repeatable=True)
    one, other = (run(job.under("eager", values=True)) for _ in range(2))
    return Searched(repeatable=False, differs_at=first_difference(one, other))


def first_difference(one: Outcome, other: Outcome) -> str | None:
    """The first op of any rank that gave something else, or is another op; None where all agree."""
    for rank, (mine, others) in enumerate(zip(one.values, other.values, strict=True)):
        for index, (a, b) in enumerate(zip_longest(mine, others, fillvalue="the end\t")):
            if a != b:
                first, second = a.partition("\t")[0], b.partition("\t")[0]
                where = f"op {index} of rank {rank}, {first}"
                return where if first == second else f"{where}, which is {second} the second time"
    return None
