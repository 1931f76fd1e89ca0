"""Proves from a syntax tree that a package orders the secondary copy as its variant says, and does nothing else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from harness.variants.variant import Variant

PARTITION = "runtime/zero/partition_parameters.py"
OFFLOAD = "runtime/zero/parameter_offload.py"
STAGE3 = "runtime/zero/stage3.py"
FILES = (PARTITION, OFFLOAD, STAGE3)

COPY_FUNCTION = "_partition_param_sec"
GATHER_FUNCTION = "all_gather_coalesced"
STEP_FUNCTION = "_post_step"
EVENT = "param.ds_secondary_ready_event"
STEP_METHOD = "order_all_gathers_after_current_stream"

_GUARD = "not get_accelerator().resolves_data_dependency()"
_RECORD = [f"{EVENT} = get_accelerator().Event()", f"{EVENT}.record()"]
_WAIT = [f"for param in params:\n    get_accelerator().current_stream().wait_event({EVENT})"]
# What stands under the guard, after the copy, for each value of the order axis.
ORDER_AFTER_COPY: dict[str, list[str]] = {
    "none": [],
    "stream-sync": ["get_accelerator().current_stream().synchronize()"],
    "device-sync": ["get_accelerator().synchronize()"],
    "event": _RECORD,
}
ORDER_BEFORE_GATHER: dict[str, list[str]] = {"none": [], "stream-sync": [], "device-sync": [], "event": _WAIT}
STEP_CALL: dict[str, list[str]] = {"none": [], "event": [f"self.parameter_offload.{STEP_METHOD}()"]}
STEP_BODY = ["self.__allgather_stream.wait_stream(get_accelerator().current_stream())"]
# The statements that copy; the new copy was rewritten in 0.19.5 (#8210), so its stages are told by what they write.
COPY_MARKS: dict[str, set[str]] = {
    "old": {"start", "end", "elements_to_copy", "elements_to_copy_sec", "sec_src_tensor"},
    "new": {"sec_numel"},
}
_COPY_CALLS = {"narrow", "copy_", "zero_", "max", "min", "no_grad"}


def syntax_findings(
    variant: Variant, patched: Path, pristine: dict[str, str], own: dict[str, str]
) -> list[str]:
    """What in the package folder `patched` is not as `variant` says; empty where all is as it must be.

    `pristine` maps each of FILES to its text in the release, `own` is the release's value of each axis.
    """
    copy, order = (variant.copy, variant.order) if variant.hpz else (own["copy"], own["order"])
    trees = {name: ast.parse((patched / name).read_text()) for name in FILES}
    return [
        *_copy_findings(_function(trees[PARTITION], COPY_FUNCTION), copy, order),
        *_gather_findings(_function(trees[PARTITION], GATHER_FUNCTION), order),
        *_step_findings(trees, variant.step),
        *_other_findings(trees, pristine),
    ]


def _copy_findings(function: ast.FunctionDef, copy: str, order: str) -> list[str]:
    """The copy is the wanted one, and what follows it orders it as wanted."""
    copying, ordering = _copy_block(function)
    where = f"{PARTITION}: {COPY_FUNCTION}"
    written = {name.id for node in _walk(copying) if isinstance(name := node, ast.Name) and _stored(name)}
    calls = {_called(node) for node in _walk(copying) if isinstance(node, ast.Call)}
    findings = []
    if written != COPY_MARKS[copy] or calls - _COPY_CALLS:
        findings.append(f"{where}: the copy is not the {copy} one")
    if [ast.unparse(node) for node in ordering] != _guarded(ORDER_AFTER_COPY[order]):
        findings.append(f"{where}: what follows the copy is not order={order}")
    return findings


def _gather_findings(function: ast.FunctionDef, order: str) -> list[str]:
    """The gather waits for the event where it turns to the secondary tensors, or has no wait at all."""
    branch = _secondary_branch(function)
    waits = [ast.unparse(node) for node in branch.body if not isinstance(node, ast.Assign)]
    if waits == _guarded(ORDER_BEFORE_GATHER[order]):
        return []
    return [f"{PARTITION}: {GATHER_FUNCTION}: what precedes the gather is not order={order}"]


def _step_findings(trees: dict[str, ast.Module], step: str) -> list[str]:
    """The optimizer step orders the all-gather stream after itself exactly when the step axis says so."""
    methods = [_unparse_body(node) for node in _functions(trees[OFFLOAD], STEP_METHOD)]
    calls = [text for text in _statements(_function(trees[STAGE3], STEP_FUNCTION)) if STEP_METHOD in text]
    wanted = [_guarded(STEP_BODY)] if step == "event" else []
    if methods == wanted and calls == STEP_CALL[step]:
        return []
    return [f"{STAGE3}: {STEP_FUNCTION}: the all-gather stream is not ordered as step={step} says"]


def _other_findings(trees: dict[str, ast.Module], pristine: dict[str, str]) -> list[str]:
    """Outside the lines under test the tree is the release's own."""
    return [
        f"{name}: differs from the release outside the lines under test"
        for name in FILES
        if ast.dump(_Neutral().visit(trees[name])) != ast.dump(_Neutral().visit(ast.parse(pristine[name])))
    ]


class _Neutral(ast.NodeTransformer):
    """Takes the lines under test out of a tree, so that what remains must be equal in every variant."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef | None:
        if node.name == STEP_METHOD:
            return None
        if node.name == COPY_FUNCTION:
            copying, ordering = _copy_block(node)
            _drop(node, [*copying, *ordering])
        self.generic_visit(node)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        return None if ast.unparse(node) == f"{EVENT} = None" else node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if ast.unparse(node) == STEP_CALL["event"][0] else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if ast.unparse(node) in _guarded(_WAIT):
            return None
        return self.generic_visit(node)


def _copy_block(function: ast.FunctionDef) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """Of the function that fills the secondary tensor: the statements that copy, and those that order after it."""
    body = _block_with(function, "one_dim_param = ")
    start = next(i for i, node in enumerate(body) if ast.unparse(node).startswith("one_dim_param = ")) + 1
    end = next(i for i, node in enumerate(body) if ast.unparse(node).startswith("print_rank_0("))
    last = max((i for i in range(start, end) if ".copy_(" in ast.unparse(body[i])), default=start - 1) + 1
    return body[start:last], body[last:end]


def _block_with(function: ast.FunctionDef, beginning: str) -> list[ast.stmt]:
    """The list of statements, at any depth, that holds the one beginning so."""
    for node in ast.walk(function):
        body = getattr(node, "body", None)
        if isinstance(body, list) and any(ast.unparse(statement).startswith(beginning) for statement in body):
            found: list[ast.stmt] = body
            return found if not any(isinstance(s, ast.FunctionDef) for s in found) else []
    return []


def _secondary_branch(function: ast.FunctionDef) -> ast.If:
    """The branch of the gather that turns from the primary partitions to the secondary ones."""
    return next(
        node
        for node in ast.walk(function)
        if isinstance(node, ast.If)
        and ast.unparse(node.test) == "self.zero_param_process_group and use_secondary_tensor"
    )


def _drop(function: ast.FunctionDef, statements: list[ast.stmt]) -> None:
    body = _block_with(function, "one_dim_param = ")
    body[:] = [node for node in body if node not in statements]


def _guarded(body: list[str]) -> list[str]:
    """The text of `body` under the guard for accelerators that order by themselves; nothing for an empty body."""
    if not body:
        return []
    return [ast.unparse(ast.parse("\n".join([f"if {_GUARD}:", *_indented(body)])))]


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for text in lines for line in text.splitlines()]


def _functions(tree: ast.AST, name: str) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)


def _function(tree: ast.AST, name: str) -> ast.FunctionDef:
    return next(_functions(tree, name))


def _statements(function: ast.FunctionDef) -> list[str]:
    return [ast.unparse(node) for node in function.body]


def _unparse_body(function: ast.FunctionDef) -> list[str]:
    """The statements of a function without its docstring."""
    skip = 1 if ast.get_docstring(function) else 0
    return _statements(function)[skip:]


def _walk(statements: list[ast.stmt]) -> Iterator[ast.AST]:
    return (node for statement in statements for node in ast.walk(statement))


def _stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
