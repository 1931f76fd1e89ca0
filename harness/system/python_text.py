"""Python text from anywhere, parsed without running it and without its warnings on this program's output."""

from __future__ import annotations

import ast
import warnings
from typing import Any


def literal(text: str) -> Any:
    """The value that a text is as a Python literal. Raises ValueError for anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise ValueError(str(error)) from error


def tree_of(text: str) -> ast.Module:
    """The syntax tree of a program. Raises SyntaxError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (ValueError, MemoryError, RecursionError) as error:  # a null byte, or brackets without an end
            raise SyntaxError(str(error)) from error
