"""JSON Schemas of the answers of doctor and triage with `--json`; `python -m harness.diagnose.schema` writes them."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from harness.diagnose.doctor import DoctorAnswer
from harness.diagnose.triage import Triage

FOLDER = Path(__file__).parent
MODELS: dict[str, type[BaseModel]] = {"doctor.schema.json": DoctorAnswer, "triage.schema.json": Triage}


def schema(file: str) -> str:
    """The text of a schema file."""
    return json.dumps(MODELS[file].model_json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    for name in MODELS:
        (FOLDER / name).write_text(schema(name))
