"""Moments as text, in UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc_now() -> str:
    return utc_of(time.time())


def utc_of(unix: float) -> str:
    """A moment that is given in Unix seconds."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(utc: str) -> float:
    return time.time() - datetime.fromisoformat(utc).timestamp()
