"""Shapes of many layers in a few lines, and back again in the same order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.study.shape_ranges import compress, expand

LAYER = [("attn.weight", (4, 4)), ("mlp.weight", (4, 8))]


def layers(*numbers: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"layers.{number}.{name}", shape) for number in numbers for name, shape in LAYER]


def test_layers_that_hold_the_same_share_their_lines() -> None:
    shapes = [("embed.weight", (9, 4)), *layers(0, 1, 2), ("norm.weight", (4,))]
    assert compress(shapes) == {
        "embed.weight": [9, 4],
        "layers.{0..2}.attn.weight": [4, 4],
        "layers.{0..2}.mlp.weight": [4, 8],
        "norm.weight": [4],
    }


def test_a_range_repeats_its_whole_block() -> None:
    lines = {"layers.{0..1}.attn.weight": [4, 4], "layers.{0..1}.mlp.weight": [4, 8]}
    assert expand(lines) == layers(0, 1)


def test_experts_are_ranges_in_ranges() -> None:
    shapes = [
        (f"layers.{i}.experts.{e}.w{w}.weight", (2, 3)) for i in (0, 1) for e in range(4) for w in (1, 2)
    ]
    lines = compress(shapes)
    assert list(lines) == [f"layers.{{0..1}}.experts.{{0..3}}.w{w}.weight" for w in (1, 2)]
    assert expand(lines) == shapes


def test_a_layer_of_another_kind_stands_for_itself() -> None:
    shapes = [("layers.0.dense.weight", (4, 4)), *layers(1, 2)]
    assert list(compress(shapes))[:2] == ["layers.0.dense.weight", "layers.{1..2}.attn.weight"]


words = st.sampled_from(["a", "b", "experts", "w1", "0", "1", "2", "3", "7", "10"])
names = st.lists(words, min_size=1, max_size=5).map(lambda parts: ".".join(["m", *parts, "weight"]))
sizes = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)


@given(st.lists(st.tuples(names, sizes), unique_by=lambda entry: entry[0], max_size=12))
def test_nothing_is_lost_and_the_order_stays(shapes: list[tuple[str, tuple[int, ...]]]) -> None:
    assert expand(compress(shapes)) == shapes
