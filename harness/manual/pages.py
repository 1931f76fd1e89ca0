"""All generated reference pages by file name, and the few words that stand around what is generated."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from analysis.judge.evidence import OBTAINED
from harness.diagnose.pages import all_pages
from harness.diagnose.schema import FOLDER as DIAGNOSE
from harness.launch.slurm.container import Container, Image
from harness.launch.slurm.health import Health
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.site import Site
from harness.manual.commands import commands
from harness.manual.keys import GENERATED, fields_table, keys_table, record_section
from harness.race import fault_pairs, matrix, report
from harness.record import directory
from harness.simulate.plan import Settings
from harness.study.axes import DEEPSPEED, DEFAULT_AXES, RUN_AXES, TRAINING_AXES
from harness.study.records import Data, Launch, Plan, Rule, Shape, Training
from harness.study.study import Study
from harness.system.places import REPOSITORY
from harness.words import WORDS

SUMMARY_SCHEMA = REPOSITORY / "analysis" / "schema" / "summary.schema.json"


def pages() -> dict[str, str]:
    """Page by file name in docs/reference."""
    made = {
        "commands.md": commands(),
        "study.md": _study(),
        "profile.md": _profile(),
        "run-directory.md": _run_directory(),
        "schemas.md": _schemas(),
        "evidence.md": _evidence(),
        "glossary.md": _glossary(),
    }
    return {name: text.rstrip() + "\n" for name, text in made.items()} | {"faults.md": all_pages()}


def _page(title: str, source: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", GENERATED.format(source=source), *parts])


def _study() -> str:
    axes = ", ".join(f"`{name}`" for name in (*RUN_AXES, *TRAINING_AXES))
    parts: dict[str, type[BaseModel]] = {
        "shape": Shape,
        "training": Training,
        "data": Data,
        "rule": Rule,
        "launch": Launch,
        "plan": Plan,
        "simulate": Settings,
    }
    defaults = ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in DEFAULT_AXES.items())
    return _page(
        "Keys of a study",
        "harness/study",
        "A study is one YAML file. A key that is not known is refused with the nearest that is. `extends: FILE` builds "
        "on another: mappings merge, the rest replaces, `null` takes away.",
        keys_table(Study, without=("models",)),
        "## matrix",
        f"A block, or a list of blocks, each a product of axes: a value, or a list of values. Axes are {axes}, and any "
        f"key of DeepSpeed's JSON as `{DEEPSPEED}SECTION.KEY`. Where nothing is said: {defaults}. A `shape` is a "
        "mapping or a word such as `2x2-hpz2`.",
        *(record_section(name, model) for name, model in parts.items()),
    )


def _profile() -> str:
    return _page(
        "Keys of a cluster profile",
        "harness/launch/slurm",
        "One cluster, as `hpz submit --cluster FILE` asks it. A key left out is not asked for.",
        keys_table(Profile),
        record_section("container", Container),
        record_section("container: an image", Image),
        record_section("health", Health),
        record_section("site", Site),
    )


def _run_directory() -> str:
    about, _, files = (directory.__doc__ or "").partition("\n\n")
    return _page(
        "The run directory",
        "harness/record",
        about,
        f"```text\n{files.rstrip()}\n```",
        "The study's folder holds besides `runs.parquet`, `steps.parquet` (a folder of parts, which pandas reads as "
        "one table), `summary.json` ([schema](schemas.md)), `report.html` and `figures/`; where `hpz race` was there, "
        "`races.json`. In a notebook: `from harness import load_study, load_results`.",
        "## steps.jsonl",
        directory.StepRecord.__doc__ or "",
        fields_table(directory.StepRecord),
    )


def _schemas() -> str:
    named = {
        "`hpz race --json`, `races.json`": report.SCHEMA_FILE,
        "`hpz race STUDY --json`": matrix.SCHEMA_FILE,
        "`hpz race CORPUS --json`, `corpus.json`": fault_pairs.SCHEMA_FILE,
        "`hpz doctor --json`": DIAGNOSE / "doctor.schema.json",
        "`hpz triage --json`": DIAGNOSE / "triage.schema.json",
        "`summary.json`": SUMMARY_SCHEMA,
    }
    return _page("JSON schemas", "the schemas", *(_schema(what, file) for what, file in named.items()))


def _schema(what: str, file: Path) -> str:
    path = file.relative_to(REPOSITORY)
    schema = json.loads(file.read_text())
    rows = "\n".join(
        f"| `{name}` | {_type(value)} | {value.get('description', '')} |"
        for name, value in schema["properties"].items()
    )
    link = f"[{path.name}](../../{path.as_posix()})"
    head = "| key | type | |\n|---|---|---|"
    return f"## {what}\n\n{schema.get('description', '')} Schema: {link}.\n\n{head}\n{rows}"


def _type(value: dict[str, object]) -> str:
    if "anyOf" in value:
        options = value["anyOf"]
        assert isinstance(options, list)
        return " or ".join(_type(option) for option in options)
    if "$ref" in value:
        return str(value["$ref"]).rsplit("/", 1)[-1]
    if "const" in value:
        return json.dumps(value["const"])
    found = value.get("type", "any")
    return " or ".join(found) if isinstance(found, list) else str(found)


def _evidence() -> str:
    rows = "\n".join(f"| `{name}` | {what} |" for name, what in OBTAINED.items())
    return _page(
        "Evidence levels",
        "analysis/judge/evidence.py",
        "Every number carries how it was obtained, strongest first:",
        f"| level | what it is |\n|---|---|\n{rows}",
        "A number is quoted at its own level only; a table that mixes levels has a column that says so, and a number "
        "made of several is quoted at the weakest. The rules are in [CONTRIBUTING.md](../../CONTRIBUTING.md#evidence).",
    )


def _glossary() -> str:
    words = "\n\n".join(f"### {word}\n\n{meaning}" for word, meaning in sorted(WORDS.items()))
    about = "The same in a terminal: `hpz explain` lists the words, `hpz explain WORD` says what one means."
    return _page("Words", "harness/words", about, words)
