"""`hpz explain`: what a word of the reports means."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.words import WORDS, meaning


def explain(
    word: Annotated[list[str] | None, typer.Argument(metavar="[WORD]", help="As reports use it.")] = None,
) -> None:
    """Say what a word of the reports means; without one, list them. Example: hpz explain secondary tensor"""
    if not word:
        print(", ".join(sorted(WORDS, key=str.lower)))
        return
    name, text = meaning(" ".join(word))
    print(f"{name}: {text}")
