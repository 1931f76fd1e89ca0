"""Where the checkout lies: what is read from it (patches, models, profiles, templates) is found from here."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
