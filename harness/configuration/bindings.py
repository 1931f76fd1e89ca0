"""What the names in a Python script are bound to, as far as it stands there: constants, options, arguments of calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.configuration.expressions import UNKNOWN, called, value_of
from harness.system.python_text import literal

Function = ast.FunctionDef | ast.AsyncFunctionDef


def bindings(tree: ast.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Names with their values, of a script started with `arguments`; an option of its parser is `args.NAME`."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    options = {"__name__": "__main__"} | _options(calls) | _read(arguments)
    parameters = _parameters(tree, calls, _constants(tree, options))
    return _constants(tree, options | parameters)


def _constants(tree: ast.Module, known: Mapping[str, Any]) -> dict[str, Any]:
    """Names that are bound once, to a value that can be read."""
    found: dict[str, Any] = dict(known)
    own = _own(tree)
    for node, sure in _Walk(found, own).through(tree.body, sure=True):
        if isinstance(node, ast.Expr):
            _update(node.value, found, sure)
            continue
        target, value = node.targets[0], _given_back(node.value, found, own)
        if isinstance(target, ast.Name):
            name = target.id
            found[name] = UNKNOWN if name in found and found[name] != value else value
        elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
            _set(_inner(target.value, found), {target.slice.value: value}, sure)
    return {name: value for name, value in found.items() if value is not UNKNOWN}


def _own(tree: ast.Module) -> dict[str, Function]:
    """The script's own functions by name, but for names that several have, as methods do."""
    named: dict[str, list[Function]] = {}
    for node in ast.walk(tree):
        if isinstance(node, Function):
            named.setdefault(node.name, []).append(node)
    return {name: several[0] for name, several in named.items() if len(several) == 1}


@dataclass(frozen=True)
class _Walk:
    """A walk through a script in the order in which it is done."""

    names: Mapping[str, Any]
    """What is known so far."""
    own: Mapping[str, Function]
    begun: set[str] = field(default_factory=set)
    """Of `own`, those that were called."""

    def through(self, body: list[ast.stmt], sure: bool) -> Iterator[tuple[ast.Assign | ast.Expr, bool]]:
        """Assignments and calls, and whether they are surely made. Of `if` comes the branch that `names` tells; what a
        function does comes, once, before the first statement that calls it, or last."""
        later: list[Function | ast.ClassDef] = []
        for node in body:
            if isinstance(node, Function | ast.ClassDef):
                later.append(node)
            elif isinstance(node, ast.If):
                chosen = value_of(node.test, self.names)
                if chosen is UNKNOWN or chosen:
                    yield from self.through(node.body, sure and chosen is not UNKNOWN)
                if chosen is UNKNOWN or not chosen:
                    yield from self.through(node.orelse, sure and chosen is not UNKNOWN)
            elif isinstance(node, ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try):
                yield from self.through(node.body, sure)
            else:
                for name in _called(node):
                    if name in self.own and name not in self.begun:
                        self.begun.add(name)
                        yield from self.through(self.own[name].body, sure)
                if isinstance(node, ast.Expr) or (isinstance(node, ast.Assign) and len(node.targets) == 1):
                    yield node, sure
        for one in later:
            if isinstance(one, Function) and one.name in self.own:
                if one.name in self.begun:
                    continue
                self.begun.add(one.name)
            yield from self.through(one.body, sure)


def _called(node: ast.AST) -> list[str]:
    """The last names of what a statement calls."""
    return [_last(one) for one in ast.walk(node) if isinstance(one, ast.Call)]


def _last(call: ast.Call) -> str:
    return called(call.func).rpartition(".")[2]


def _given_back(node: ast.expr, names: Mapping[str, Any], own: Mapping[str, Function]) -> Any:
    """A value, of a call of the script's own function what that gives back."""
    function = own.get(_last(node)) if isinstance(node, ast.Call) else None
    if function is None:
        return value_of(node, names)
    back = [one.value for one in ast.walk(function) if isinstance(one, ast.Return) and one.value is not None]
    return value_of(back[0], names) if len(back) == 1 else UNKNOWN


def _set(target: Any, given: Mapping[Any, Any], sure: bool) -> None:
    """Keys of a dictionary that is known; UNKNOWN where it is not sure that they are set."""
    if isinstance(target, dict):
        target |= given if sure else dict.fromkeys(given, UNKNOWN)


def _inner(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """What `config["zero_optimization"]` stands for."""
    if isinstance(node, ast.Subscript):
        outer, key = _inner(node.value, names), node.slice
        return (
            outer.get(key.value, UNKNOWN)
            if isinstance(outer, dict) and isinstance(key, ast.Constant)
            else UNKNOWN
        )
    return value_of(node, names)


def _update(call: ast.expr, names: Mapping[str, Any], sure: bool) -> None:
    """`config.update({…})`."""
    match call:
        case ast.Call(func=ast.Attribute(value=target, attr="update"), args=[given]):
            if isinstance(values := value_of(given, names), dict):
                _set(_inner(target, names), values, sure)


def _options(calls: list[ast.Call]) -> dict[str, Any]:
    """Defaults of a script's own command line."""
    found: dict[str, Any] = {}
    for call in calls:
        names = [
            one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)
        ]
        words = {word.arg: word.value for word in call.keywords}
        default, action = value_of(words.get("default"), {}), value_of(words.get("action"), {})
        if default is None and action in ("store_true", "store_false"):
            default = action == "store_false"  # a flag that is not given
        if called(call.func).endswith("add_argument") and names and default is not UNKNOWN:
            found[f"args.{names[-1].lstrip('-').replace('-', '_')}"] = default
    return {name: value for name, value in found.items() if value is not None}


def _read(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a command line as the values that a parser makes of them."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        try:
            found[f"args.{name}"] = literal(value) if isinstance(value, str) else value
        except ValueError:
            found[f"args.{name}"] = value
    return found


def _parameters(tree: ast.Module, calls: list[ast.Call], names: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the script's own functions, where every call gives the same."""
    by_name: dict[str, list[ast.Call]] = {}
    for call in calls:
        by_name.setdefault(_last(call), []).append(call)
    found: dict[str, Any] = {}
    for function in (node for node in ast.walk(tree) if isinstance(node, Function)):
        made = [_given(function, call, names) for call in by_name.get(function.name, ())]
        made = made or [dict.fromkeys(_names(function), UNKNOWN)]
        for name, value in made[0].items():
            same = all(one[name] == value for one in made) and found.get(name, value) == value
            found[name] = value if same else UNKNOWN
    return {name: value for name, value in found.items() if value is not UNKNOWN}


def _names(function: Function) -> list[str]:
    named = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
    return named[1:] if named[:1] in (["self"], ["cls"]) else named


def _given(function: Function, call: ast.Call, names: Mapping[str, Any]) -> dict[str, Any]:
    """What a call gives each parameter, or its default."""
    wanted, has = _names(function), function.args
    spread = any(isinstance(one, ast.Starred) for one in call.args) or any(
        word.arg is None for word in call.keywords
    )
    found = dict.fromkeys([*wanted, *(one.arg for one in has.kwonlyargs)], UNKNOWN)
    if not spread:
        found |= {
            name: value_of(default, names)
            for name, default in zip(reversed(wanted), reversed(has.defaults), strict=False)
        }
        found |= {
            one.arg: value_of(default, names)
            for one, default in zip(has.kwonlyargs, has.kw_defaults, strict=True)
            if default is not None
        }
        found |= {name: value_of(one, names) for name, one in zip(wanted, call.args, strict=False)}
    found |= {word.arg: value_of(word.value, names) for word in call.keywords if word.arg in found}
    return found
