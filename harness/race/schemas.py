"""Writes the JSON Schemas of race reports, matrices and corpora to their files: `python -m harness.race.schemas`."""

from __future__ import annotations

import json

from harness.race import fault_pairs, matrix, report

if __name__ == "__main__":
    for module in (report, matrix, fault_pairs):
        module.SCHEMA_FILE.write_text(json.dumps(module.json_schema(), indent=1) + "\n")
