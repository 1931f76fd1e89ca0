"""Moments as text, in UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc_now() -> str:
    return utc_of(time.time())


def utc_of(unix: float) -> str:
    """A moment that is given in Unix seconds."""
    return utc_text(datetime.fromtimestamp(unix, UTC))


def seconds_since(utc: str) -> float:
    return time.time() - datetime.fromisoformat(utc).timestamp()


def local_to_utc(text: str) -> str | None:
    """A moment in this machine's time zone, as 2026-11-26T07:04:03; None where the text is none."""
    try:
        return utc_text(datetime.fromisoformat(text).astimezone(UTC))
    except ValueError:
        return None


def utc_text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
