"""The value of a Python expression as it stands in a script, read from its syntax tree and never run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from typing import Any

UNKNOWN = object()
"""The value of what a script works out."""
COMPARED = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def called(node: ast.expr) -> str:
    """The dotted name of what is called or read."""
    if isinstance(node, ast.Attribute):
        return f"{called(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def value_of(node: ast.expr | None, names: Mapping[str, Any]) -> Any:
    """A value as it stands there, with names put in; UNKNOWN where it is worked out."""
    match node:
        case None:
            return None
        case ast.Dict():
            return _dictionary(node, names)
        case ast.List() | ast.Tuple():
            return [value_of(one, names) for one in node.elts]
        case ast.Name() | ast.Attribute():
            return names.get(called(node), UNKNOWN)
        case ast.Call(args=[inner]) if called(node.func) in ("int", "float"):
            number = value_of(inner, names)
            return int(number) if isinstance(number, int | float) else UNKNOWN
        case ast.IfExp():
            chosen = value_of(node.test, names)
            return UNKNOWN if chosen is UNKNOWN else value_of(node.body if chosen else node.orelse, names)
        case ast.UnaryOp(op=ast.Not()):
            inner = value_of(node.operand, names)
            return UNKNOWN if inner is UNKNOWN else not inner
        case ast.Compare(ops=[how], comparators=[other]) if type(how) in COMPARED:
            left, right = value_of(node.left, names), value_of(other, names)
            return UNKNOWN if UNKNOWN in (left, right) else COMPARED[type(how)](left, right)
        case ast.BinOp():
            return _of_two(node, names)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return UNKNOWN


def _dictionary(node: ast.Dict, names: Mapping[str, Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant):
            found[key.value] = value_of(value, names)
        elif key is None and isinstance(inner := value_of(value, names), Mapping):
            found |= inner  # {**base, …}
    return found


def _of_two(node: ast.BinOp, names: Mapping[str, Any]) -> Any:
    """5 * 10**7, base | {…} and the like."""
    left, right = value_of(node.left, names), value_of(node.right, names)
    if isinstance(node.op, ast.BitOr) and isinstance(left, dict) and isinstance(right, dict):
        return left | right
    if not isinstance(left, int | float) or not isinstance(right, int | float) or abs(right) > 1e12:
        return UNKNOWN
    if isinstance(node.op, ast.Mult):
        return left * right
    return left**right if isinstance(node.op, ast.Pow) and abs(right) < 64 and abs(left) < 1e6 else UNKNOWN
