"""What each ATen operator does to memory and to the host, read once from its schema and tags."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch


class Kind(Enum):
    """How the dispatcher treats an operator."""

    METADATA = auto()  # views, and operators that touch no tensor data: run at once
    ALLOCATE = auto()  # memory without content
    CREATE = auto()  # makes a tensor from none, or from the metadata of one
    TO = auto()  # _to_copy: may cross between host and device
    COPY = auto()  # copy_: may cross
    READ = auto()  # gives its result to the host, or needs it for a shape: the host waits
    INDEX = auto()  # waits for masks only
    COMPUTE = auto()  # everything else
    RESIZE = auto()  # changes a storage
    COLLECTIVE = auto()  # c10d
    COMPOSED = auto()  # calls other operators, which are treated one by one
    UNKNOWN = auto()  # might wait for the device in a way that nobody has described


# Views although their schema does not say so, and questions about metadata.
VIEWS = {"_unsafe_view", "lift_fresh", "lift", "_reshape_alias", "alias", "detach", "set_", "is_same_size"}
ALLOCATIONS = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"}
LIKES = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"} | {
    "rand_like",
    "randn_like",
    "randint_like",
}
SPECIAL = {
    "_to_copy": Kind.TO,
    "copy_": Kind.COPY,
    "resize_": Kind.RESIZE,
    "index": Kind.INDEX,
    "index_put_": Kind.INDEX,
    "index_put": Kind.INDEX,
    "_index_put_impl_": Kind.INDEX,
    "_unsafe_index": Kind.INDEX,
    "_unsafe_index_put": Kind.INDEX,
}
# In-place operators that do not read what they overwrite; so do all `out=` overloads.
OVERWRITE = {"copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_", "exponential_"} | {
    "_foreach_copy_",
    "_foreach_zero_",
    "log_normal_",
    "cauchy_",
    "geometric_",
}
# With `beta=0` the first argument is not read, as torch documents; so of their in-place forms.
SCALED_FIRST = {"addmm", "addmv", "addbmm", "baddbmm", "addr", "_addmm_activation", "sspaddmm"}
NAMESPACES = {"aten", "prims"}
COMPOSED = {"fsdp", "_c10d_functional", "_dtensor"}  # see harness.device.composed


@dataclass(frozen=True, slots=True)
class Operator:
    """The facts about one operator overload."""

    name: str  # without namespace and overload
    kind: Kind
    written: frozenset[int]  # positions of arguments that it writes
    written_names: frozenset[str]
    overwrites: bool  # what it writes it does not read
    # Per return: the position of the argument that it is, None for a fresh result.
    returned: tuple[int | None, ...]
    returns_fresh: bool
    random: bool
    pointwise: bool  # works element by element
    scales_first: bool  # whether `beta` scales the first argument
    float_shapes: bool  # whether a float argument can decide the shape of the result


_known: dict[int, Operator] = {}  # by id: overloads live for ever, and hash slowly


def describe(func: Any) -> Operator:
    """The facts about an overload, cached."""
    found = _known.get(id(func))
    if found is None:
        found = _known[id(func)] = _describe(func)
    return found


def _describe(func: Any) -> Operator:
    schema = func._schema
    name = schema.name.split("::")[1]
    written = [
        i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write
    ]
    returned = tuple(_returned(schema, written, result) for result in schema.returns)
    return Operator(
        name=name,
        kind=_kind(func, name, bool(written)),
        written=frozenset(written),
        written_names=frozenset(schema.arguments[i].name for i in written),
        overwrites=name in OVERWRITE or func._overloadname.endswith("out"),
        random=torch.Tag.nondeterministic_seeded in func.tags,
        pointwise=torch.Tag.pointwise in func.tags,
        returned=returned,
        returns_fresh=None in returned,
        scales_first=name.removesuffix("_") in SCALED_FIRST,
        float_shapes=name in ("arange", "linspace", "logspace", "range"),
    )


def _kind(func: Any, name: str, writes: bool) -> Kind:
    schema, tags = func._schema, func.tags
    if func.namespace == "c10d":
        return Kind.COLLECTIVE
    if func.namespace in COMPOSED:
        return Kind.COMPOSED
    if not any(_is_tensor(item) for item in (*schema.arguments, *schema.returns)):
        return Kind.METADATA
    if name in SPECIAL:
        return SPECIAL[name]
    if name in VIEWS or torch.Tag.inplace_view in tags or (not writes and _any_alias(schema)):
        return Kind.METADATA
    if torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags:
        return Kind.READ
    if name in ALLOCATIONS:
        return Kind.ALLOCATE
    if name in LIKES or not any(_is_tensor(argument) for argument in schema.arguments):
        return Kind.CREATE
    if func.namespace not in NAMESPACES or not all(_is_tensor(result) for result in schema.returns):
        return Kind.UNKNOWN
    return Kind.COMPUTE


def _any_alias(schema: Any) -> bool:
    return any(result.alias_info is not None for result in schema.returns)


def _is_tensor(item: Any) -> bool:
    return "Tensor" in str(item.type)


def _returned(schema: Any, written: list[int], result: Any) -> int | None:
    if result.alias_info is None or not result.alias_info.is_write:
        return None
    for position in written:
        if schema.arguments[position].alias_info.before_set == result.alias_info.before_set:
            return position
    return None
