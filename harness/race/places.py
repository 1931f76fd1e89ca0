"""The line of a user's program that an error came through."""

from __future__ import annotations

import traceback
from pathlib import Path


def place_in(script: Path, error: BaseException) -> str:
    """The innermost line of the script and its neighbours that an error came through: `train.py:5 (code)`."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if Path(frame.filename).parent == script.parent] or [
        frame for frame in frames if Path(frame.filename).is_relative_to(script.parent)
    ]
    return f"{Path(mine[-1].filename).name}:{mine[-1].lineno} ({mine[-1].line})" if mine else script.name
