"""What is executed under which schedule, and what its ranks left behind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.race.classes import Before, Pair
from harness.race.report import RankReport, Trace
from harness.race.searched import Covered
from harness.study import Run
from harness.variants import Variant, overlay_path, overlay_with


@dataclass(frozen=True)
class Program:
    """What the ranks run: a run of a study, or a script with its arguments, on one DeepSpeed."""

    ranks: int
    run: dict[str, Any] | None = None  # as in run.json; its policy and poison are the job's to say
    script: str | None = None
    arguments: tuple[str, ...] = ()
    config: str | None = None  # DeepSpeed JSON file whose keys override what the script passes
    variant: str | None = None  # None: DeepSpeed as installed
    release: str | None = None
    transformers: bool = False  # whether the warm process imports transformers too
    map_cuda: bool = False  # whether CUDA's names mean the virtual device
    module: str | None = None  # in place of a script, as `python -m`
    environment: tuple[tuple[str, str], ...] = ()  # what its launcher sets besides the ranks' places
    local_rank: bool = False  # whether its launcher adds --local_rank=N
    steps: int | None = None  # of a script: it ends after so many optimizer steps
    python: str | None = None  # the interpreter that it runs under; None: this one
    patch: str | None = None  # file of one more patch, on top of the variant's

    @property
    def title(self) -> str:
        if self.run is not None:
            return Run.model_validate(self.run).run_id
        return self.module or Path(self.script or "").name

    @property
    def overlay(self) -> Path | None:
        """The folder to put first on PYTHONPATH; built if need be."""
        if self.variant is None:
            return None
        overlay = overlay_path(Variant.parse(self.variant), self.release)
        return overlay_with(overlay, Path(self.patch)) if self.patch else overlay

    @classmethod
    def of_run(cls, run: Run, steps: int | None = None) -> Program:
        """The training of a run on the virtual device, `steps` steps of it; its order does not depend on its text."""
        training = run.training.model_copy(
            update={"steps": min(steps or run.training.steps, run.training.steps), "checkpoint_every": 0}
        )
        run = run.model_copy(
            update={
                "device": "virtual",
                "policy": "eager",
                "poison": "nan",
                "training": training,
                "data": run.data.as_here(),
            }
        )
        return cls(
            ranks=run.shape.world_size,
            run=run.model_dump(mode="json"),
            variant=run.variant,
            release=run.release,
            transformers=True,
        )

    @classmethod
    def parse(cls, content: dict[str, Any]) -> Program:
        words = {
            "arguments": tuple(content.get("arguments", ())),
            "environment": tuple((name, value) for name, value in content.get("environment", ())),
        }
        return cls(**{**content, **words})


@dataclass(frozen=True, order=True)
class Flip:
    """One decision of a scripted schedule: op `hold` does not start before op `until` has run."""

    hold: int
    until: int


@dataclass(frozen=True)
class Job:
    """One execution of a program: under which schedule, and what to watch."""

    program: Program
    policy: str = "busy"
    flips: tuple[Flip, ...] = ()  # of policy `scripted`
    poison: str = "nan"
    seed: int = 0
    analyse: bool = True
    excerpt: bool = False  # record what happens around the first flip, and the order in which ops run
    order: bool = False  # record that order alone
    every: bool = False  # of the analysis: list every unordered pair, and what is ordered among their ops
    values: bool = False  # write down what each op's result hashes to
    numbers: bool = (
        True  # of a script: whether its global numbers count among its final values, besides tensors
    )

    def json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def parse(cls, content: dict[str, Any]) -> Job:
        flips = tuple(Flip(**flip) for flip in content.get("flips", ()))
        return cls(**{**content, "program": Program.parse(content["program"]), "flips": flips})

    def under(self, policy: str, flips: Iterable[Flip] = (), **changes: Any) -> Job:
        """The same program under another schedule, without the analysis."""
        return replace(self, policy=policy, flips=tuple(flips), **{"analyse": False, **changes})


@dataclass(frozen=True)
class Outcome:
    """What the ranks of a job left behind."""

    reports: tuple[RankReport, ...]
    problem: str | None = None
    processor_seconds: float | None = None  # of all ranks; None where they did not end well
    losses: tuple[str, ...] = ()  # of a run: one a step, as written
    window: tuple[Trace, ...] = ()  # with `excerpt`: rank 0 around the first flip
    order: dict[int, int] = field(
        default_factory=dict
    )  # with `excerpt` or `order`: op index (~index of the host's accesses) → place in the executed order of rank 0
    issued: tuple[int, ...] = ()  # ops, one a rank
    pairs: tuple[Pair, ...] = ()  # with `every`: unordered pairs of any rank
    before: Before = field(default_factory=dict)  # likewise, what is ordered among their ops on every rank
    values: tuple[tuple[str, ...], ...] = ()  # with `values`: for each rank its ops, with what they gave

    @property
    def reads(self) -> tuple[str | None, ...]:
        """One a rank: what all that its host read hashes to; nothing where no host read anything."""
        reads = tuple(report.reads.digest if report.reads else None for report in self.reports)
        return reads if any(reads) else ()

    @property
    def covered(self) -> Covered:
        """What there is of the program's values to compare."""
        if self.losses or any(report.left for report in self.reports):
            return "values"
        return "reads" if self.reads else "nothing"

    @property
    def digests(self) -> tuple[str | None, ...]:
        """One a rank: what its final values hash to."""
        return tuple(report.digest for report in self.reports)
