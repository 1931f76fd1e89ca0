"""The paper's numbers, as a reader filled them in (results/paper/form.yaml), beside those of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from analysis.judge.look_up import look_up
from harness.study import Study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

FORM = REPOSITORY / "results" / "paper" / "form.yaml"
Value = int | float | str


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Settings(Frozen):
    """How the paper measured; None: it does not say, or nobody filled it in."""

    nodes: Value | list[Value] | None = Field(default=None, alias="node counts")
    batch: Value | list[Value] | None = Field(default=None, alias="batch sizes")
    length: Value | list[Value] | None = Field(default=None, alias="sequence length")
    accumulation: Value | list[Value] | None = Field(default=None, alias="gradient accumulation")
    release: Value | list[Value] | None = Field(default=None, alias="the DeepSpeed release called stock")
    baseline: Value | list[Value] | None = Field(default=None, alias="the baseline of the 98 %")
    seeds: Value | list[Value] | None = None
    code: Value | list[Value] | None = None


class Number(Frozen):
    """One value of a table or figure, and where summary.json has the like."""

    what: str
    value: float
    at: str
    within: float = Field(default=0.05, gt=0)


class Form(Frozen):
    source: str | None = None
    settings: Settings = Settings()
    numbers: list[Number] = Field(default=[], alias="every value of the tables and figures")


def load_form(file: Path = FORM) -> Form:
    """The form; empty where there is none. Raises HarnessError naming file and key."""
    if not file.exists():
        return Form()
    try:
        form = Form.model_validate(yaml.safe_load(file.read_text()) or {})
    except (yaml.YAMLError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise HarnessError(f"{file}: {what}; see the comments in the form") from error
    filled = form.numbers or any(value is not None for value in vars(form.settings).values())
    if filled and not form.source:
        raise HarnessError(f"{file}: source: say which text the numbers were read in")
    return form


def paper_rows(study: Study, summary: Mapping[str, Any], form: Form) -> list[dict[str, Any]]:
    """What was filled in, one row each: what, the paper's and the study's value as text, and same, partly or other."""
    rows = []
    for key, field in Settings.model_fields.items():
        value = getattr(form.settings, key)
        if value is not None:
            here = _here(study, key)
            rows.append(_row(field.alias or key, _texts(value), here, _same(_texts(value), here)))
    for number in form.numbers:
        try:
            found = look_up(summary, number.at)
        except HarnessError:
            rows.append(_row(number.what, [f"{number.value:g}"], [], "not in this study"))
            continue
        known = isinstance(found, int | float)
        same = known and math.isclose(found, number.value, rel_tol=number.within)
        here = [f"{found:.4g}" if known else str(found)]
        rows.append(_row(number.what, [f"{number.value:g}"], here, "same" if same else "other"))
    return rows


def _here(study: Study, key: str) -> list[str]:
    runs = study.runs
    found: dict[str, Iterable[Any]] = {
        "nodes": (run.shape.nodes for run in runs),
        "batch": (
            run.training.micro_batch * run.training.gradient_accumulation * run.shape.world_size
            for run in runs
        ),
        "length": (run.training.sequence_length for run in runs),
        "accumulation": (run.training.gradient_accumulation for run in runs),
        "release": (run.release for run in runs),
        "baseline": (baseline.variant for _, baseline in study.pairs),
        "seeds": [len({run.seed for run in runs})],
        "code": [],
    }
    return sorted({str(value) for value in found[key]})


def _texts(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value])]


def _same(paper: list[str], here: list[str]) -> str:
    if not here:
        return "not in this study"
    both = set(paper) & set(here)
    return "same" if set(paper) == set(here) else "partly" if both else "other"


def _row(what: str, paper: list[str], here: list[str], same: str) -> dict[str, Any]:
    return {"what": what, "paper": ", ".join(paper), "here": ", ".join(here), "same": same}
