"""Arguments and options of `hpz race`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.race.searched import Mode

STEPS = 4  # optimizer steps of a run that are analysed
RANKS = 4  # of a script whose launcher does not say

TargetArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN|STUDY|CORPUS",
        help="A run directory, a study file or its results folder, or a folder of faults.",
    ),
]
ScriptArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[-- ARGUMENTS]",
        help="What the script gets as its arguments; or a launcher's whole command line.",
    ),
]
ScriptOption = Annotated[Path | None, typer.Option(help="Analyse this training script instead.")]
ModuleOption = Annotated[str | None, typer.Option(help="Analyse this module instead, as `python -m`.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option(help="DeepSpeed's JSON, or what names it; its keys override what the script passes."),
]
RanksOption = Annotated[
    int | None,
    typer.Option(min=1, help=f"Ranks of the script; default as its launcher says, else {RANKS}."),
]
VariantOption = Annotated[
    str | None, typer.Option(help="Run the script on this variant of DeepSpeed; default: as installed.")
]
ReleaseOption = Annotated[
    str | None,
    typer.Option(help="DeepSpeed release of the script's variant, or in place of the study's."),
]
StepsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Optimizer steps that are analysed: {STEPS} of a run; a script then ends, by default by itself.",
    ),
]
SeedsOption = Annotated[
    int, typer.Option(min=0, help="Random schedules to try, besides the systematic ones.")
]
SearchOption = Annotated[
    Mode,
    typer.Option(
        help="Besides swapping what nothing orders, run: a few named policies; schedules of random priorities (PCT), "
        "with a bound on what they miss; or one schedule for each class of them. Races between ranks (one-sided, "
        "shared memory) are out of scope."
    ),
]
SchedulesOption = Annotated[
    int, typer.Option(min=1, help="Schedules of --search pct, or classes of --search exhaustive, at most.")
]
ExploreOption = Annotated[bool, typer.Option(help="Search for schedules that change values.")]
ReplayOption = Annotated[Path | None, typer.Option(help="Run the schedule of a replay file again.")]
ResultsOption = Annotated[Path | None, typer.Option(help="Results folder; default results/race-NAME.")]
TimeoutOption = Annotated[float, typer.Option(help="Seconds for one execution.")]
MapCudaOption = Annotated[
    bool, typer.Option(help="Let a script's torch.cuda mean the virtual device; else it is refused.")
]
PythonOption = Annotated[
    Path | None,
    typer.Option(help="The interpreter of the environment that the script trains in: .venv/bin/python."),
]
FailOnRaceOption = Annotated[
    bool,
    typer.Option("--fail-on-race", help="End with exit code 1 where anything unordered was found, too."),
]
VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Callers, all names, and what the analysis itself held."),
]
