"""Shared by the race tests: the scripts, and a way to analyse one."""

from __future__ import annotations

from pathlib import Path

from harness.race.investigate import analysed
from harness.race.job import Job, Program
from harness.race.launch import Ranks
from harness.race.report import Report
from harness.system.places import REPOSITORY

SCRIPTS = Path(__file__).parent / "scripts"
CORPUS = REPOSITORY / "experiments" / "corpus"


def job_of(script: str, *arguments: str, ranks: int = 1) -> Job:
    """Of one of the scripts here, or of the corpus's."""
    file = next(file for folder in (SCRIPTS, CORPUS) if (file := folder / f"{script}.py").is_file())
    return Job(Program(ranks, script=str(file), arguments=arguments))


def analyse(ranks: Ranks, script: str, *arguments: str, world: int = 1) -> Report:
    job = job_of(script, *arguments, ranks=world)
    return analysed(job, ranks.run(job))
