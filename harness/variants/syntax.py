"""Proves from a syntax tree that a package orders the secondary copy as its variant says, and does nothing else."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache

from harness.variants.families import Family
from harness.variants.variant import Variant

PARTITION = "runtime/zero/partition_parameters.py"
OFFLOAD = "runtime/zero/parameter_offload.py"
STAGE3 = "runtime/zero/stage3.py"
FILES = (PARTITION, OFFLOAD, STAGE3)

COPY_FUNCTION = "_partition_param_sec"
GATHER_FUNCTION = "all_gather_coalesced"
STEP_FUNCTION = "_post_step"
LOAD_FUNCTION = "setup_zero_stage3_hooks"
LOAD_HOOK = "_start_of_forward_hook"
EVENT = "param.ds_secondary_ready_event"
STEP_METHOD = "order_all_gathers_after_current_stream"

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
_STREAM_WAIT = ["self.__allgather_stream.wait_stream(get_accelerator().current_stream())"]
# When a gather may turn to the secondary tensors; before 0.13.2 in the backward pass.
_SECONDARY = tuple(
    f"self.zero_param_process_group and {condition}"
    for condition in ("use_secondary_tensor", "(not forward)")
)
# The statements that copy; the new copy was rewritten in 0.19.5 (#8210), so its stages are told by what they write.
COPY_MARKS: dict[str, set[str]] = {
    "old": {"start", "end", "elements_to_copy", "elements_to_copy_sec", "sec_src_tensor"},
    "new": {"sec_numel"},
}
_COPY_CALLS = {"narrow", "copy_", "zero_", "max", "min", "no_grad"}


def syntax_findings(
    variant: Variant, patched: Mapping[str, str], pristine: Mapping[str, str], family: Family
) -> list[str]:
    """What in the texts `patched` is not as `variant` says; empty where all is as it must be.

    Both map each of FILES to its text, in the variant and in the release.
    """
    own = family.own
    copy, order = (variant.copy, variant.order) if variant.hpz else (own["copy"], own["order"])
    try:
        trees = {name: _tree(patched[name]) for name in FILES}
        return [
            *_copy_findings(trees[PARTITION], copy, order, family),
            *_gather_findings(trees[PARTITION], order, family),
            *_step_findings(trees, variant.step, family),
            *_load_findings(trees[OFFLOAD], variant.load, family),
            *_other_findings(patched, pristine, family.guard),
        ]
    except SyntaxError as error:
        return [f"a file is not Python ({error.msg}, line {error.lineno})"]
    except StopIteration:
        return ["a function that should be ordered is not there, or is not built as in the known releases"]


def _copy_findings(tree: ast.Module, copy: str, order: str, family: Family) -> list[str]:
    """The copy is the wanted one, and what follows it orders it as wanted."""
    copying, ordering = _copy_block(_function(tree, COPY_FUNCTION))
    where = f"{PARTITION}: {COPY_FUNCTION}"
    written = {name.id for node in _walk(copying) if isinstance(name := node, ast.Name) and _stored(name)}
    calls = {_called(node) for node in _walk(copying) if isinstance(node, ast.Call)}
    findings = []
    if written != COPY_MARKS[copy] or calls - _COPY_CALLS:
        findings.append(f"{where}: the copy is not the {copy} one")
    if [ast.unparse(node) for node in ordering] != _guarded(ORDER_AFTER_COPY[order], family.guard):
        findings.append(f"{where}: what follows the copy is not order={order}")
    return findings


def _gather_findings(tree: ast.Module, order: str, family: Family) -> list[str]:
    """The gather waits for the event where it turns to the secondary tensors, or has no wait at all."""
    branch = _secondary_branch(_function(tree, GATHER_FUNCTION))
    waits = [ast.unparse(node) for node in branch.body if not isinstance(node, ast.Assign)]
    wanted = _guarded(ORDER_BEFORE_GATHER[order], family.guard)
    if waits == wanted and _occurrences(tree, _guarded(_WAIT, family.guard)) == len(wanted):
        return []
    return [f"{PARTITION}: {GATHER_FUNCTION}: what precedes the gather is not order={order}"]


def _step_findings(trees: dict[str, ast.Module], step: str, family: Family) -> list[str]:
    """The optimizer step orders the all-gather stream after itself exactly when the step axis says so."""
    methods = [_unparse_body(node) for node in _functions(trees[OFFLOAD], STEP_METHOD)]
    calls = [text for text in _statements(_function(trees[STAGE3], STEP_FUNCTION)) if STEP_METHOD in text]
    wanted = [_guarded(_STREAM_WAIT, family.guard)] if step == "event" else []
    if methods == wanted and calls == STEP_CALL[step]:
        return []
    return [f"{STAGE3}: {STEP_FUNCTION}: the all-gather stream is not ordered as step={step} says"]


def _load_findings(tree: ast.Module, load: str, family: Family) -> list[str]:
    """The start of a forward pass orders the all-gather stream exactly when the load axis says so."""
    wait = _guarded(_STREAM_WAIT, family.guard)
    setup = _function(tree, LOAD_FUNCTION)
    hooks = [_statements(node) for node in _functions(setup, LOAD_HOOK)]
    registered = any(f"register_forward_pre_hook({LOAD_HOOK})" in text for text in _statements(setup))
    last = [statements[-1:] for statements in hooks]
    if load == "event" and registered and last == [wait]:
        return []
    if load == "none" and not any(set(wait) & set(statements) for statements in hooks):
        return []
    return [f"{OFFLOAD}: {LOAD_FUNCTION}: the start of a forward pass is not ordered as load={load} says"]


def _other_findings(patched: Mapping[str, str], pristine: Mapping[str, str], guard: str) -> list[str]:
    """Outside the lines under test the tree is the release's own."""
    return [
        f"{name}: differs from the release outside the lines under test"
        for name in FILES
        if _neutral(patched[name], guard) != _neutral(pristine[name], guard)
    ]


# The variants of one release share most of their files, and parsing one takes a tenth of a second.
@lru_cache(maxsize=64)
def _tree(text: str) -> ast.Module:
    """Not to be changed by who gets it."""
    return ast.parse(text)


@lru_cache(maxsize=64)
def _neutral(text: str, guard: str) -> str:
    """A file's tree without the lines under test, as text."""
    return ast.dump(_Neutral(guard).visit(ast.parse(text)))


class _Neutral(ast.NodeTransformer):
    """Takes the lines under test out of a tree, so that what remains must be equal in every variant."""

    def __init__(self, guard: str) -> None:
        self.waits = {*_guarded(_WAIT, guard), *_guarded(_STREAM_WAIT, guard)}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef | None:
        if node.name == STEP_METHOD:
            return None
        if node.name == COPY_FUNCTION:
            copying, ordering = _copy_block(node)
            _drop(node, [*copying, *ordering])
        if node.name == LOAD_FUNCTION:
            node.body = [statement for statement in node.body if not self._added_hook(statement)]
        self.generic_visit(node)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        return None if ast.unparse(node) == f"{EVENT} = None" else node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if ast.unparse(node) == STEP_CALL["event"][0] else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if ast.unparse(node) in self.waits:
            return None
        return self.generic_visit(node)

    def _added_hook(self, statement: ast.stmt) -> bool:
        """Before 0.15.4 the hook itself is added; since then the release has one, whose lines stay."""
        if isinstance(statement, ast.FunctionDef) and statement.name == LOAD_HOOK:
            return all(text in self.waits for text in _statements(statement))
        return ast.unparse(statement) == f"self.module.register_forward_pre_hook({LOAD_HOOK})"


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
        if isinstance(node, ast.If) and ast.unparse(node.test) in _SECONDARY
    )


def _drop(function: ast.FunctionDef, statements: list[ast.stmt]) -> None:
    body = _block_with(function, "one_dim_param = ")
    body[:] = [node for node in body if node not in statements]


def _guarded(body: list[str], guard: str) -> list[str]:
    """The text of `body` under the guard for accelerators that order by themselves; nothing for an empty body."""
    if not body:
        return []
    condition = f"if not get_accelerator().{guard}():"
    return [ast.unparse(ast.parse("\n".join([condition, *_indented(body)])))]


def _occurrences(tree: ast.AST, texts: list[str]) -> int:
    tests = {text.splitlines()[0] for text in texts}
    found = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and f"if {ast.unparse(node.test)}:" in tests
    )
    return sum(ast.unparse(node) in texts for node in found)


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
