"""Writes the JSON Schemas of a race report and of a race matrix to their files: `python -m harness.race.schemas`."""

from __future__ import annotations

import json

from harness.race import matrix, report

if __name__ == "__main__":
    for module in (report, matrix):
        module.SCHEMA_FILE.write_text(json.dumps(module.json_schema(), indent=1) + "\n")
