"""The model that a published measurement speaks of: its shape, from the numbers in its name, the name, or its size."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml

from harness.simulate.stated import CannotSimulate, Row, Stated, parameters
from harness.simulate.transformer import Transformer

SHAPES = Path(__file__).with_name("shapes.yaml")
SAME_SIZE = 0.2  # of a model that is named and one that is known, at most


@cache
def _known() -> list[tuple[re.Pattern[str], Transformer]]:
    return [
        (re.compile(words), _shape(*sizes)) for words, sizes in yaml.safe_load(SHAPES.read_text()).items()
    ]


def _shape(
    layers: int, hidden: int, heads: int, keys: int, wide: int, words: int, gated: bool, causal: bool = True
) -> Transformer:
    return Transformer(
        layers, hidden, heads, keys, wide, words, gated, gated, gated, causal=causal, tied=not gated
    )


def model_of(row: Row) -> Stated:
    """Its shape: from the numbers in its name, the name, or its parameters. Raises CannotSimulate."""
    name = row["model"]
    if re.search(r"moe|\d+x\d+b|-a\d+b", name, re.IGNORECASE):
        raise CannotSimulate("mixture of experts: its blocks are not generated")
    causal = not re.search("bert", name, re.IGNORECASE)
    if match := re.search(r"(\d+)\s*x\s*(\d{3,})", name):
        layers, hidden = int(match[1]), int(match[2])
        heads = re.search(r"(\d+) heads", name)
        vocabulary = re.search(r"vocab(?:ulary)?\D{0,3}(\d+)", name)
        wide = re.search(r"intermediate (\d+)", name)
        count = int(heads[1]) if heads else hidden // 128
        words = int(vocabulary[1]) if vocabulary else 51200
        width = int(wide[1]) if wide else 4 * hidden
        return Stated((_shape(layers, hidden, count, count, width, words, False, causal),))
    written = re.sub(r"[\s_]+", "-", name.lower())
    size = parameters(row)
    for words_, shape in (*_shipped(), *_known()):
        named = words_.search(written) or words_.search(name.lower())
        if named and (size is None or abs(shape.parameters / size - 1) < SAME_SIZE):
            return Stated((shape,))
    if size and re.search(r"gpt|bert|transformer", name, re.IGNORECASE):
        return Stated((_by_size(size, causal),), f"shape of a GPT of {size / 1e9:.3g}B parameters")
    raise CannotSimulate(f"model {name!r}: its shape is not known")


def _shipped() -> list[tuple[re.Pattern[str], Transformer]]:
    """The models of experiments/models, by their names."""
    from harness.budget.sizes import sizes_of
    from harness.study.models import load_model_file
    from harness.system.places import REPOSITORY

    found = []
    for file in sorted((REPOSITORY / "experiments" / "models").glob("*.yaml")):
        name = file.stem
        if "toy" in name or "mini" in name or "a3b" in name or "8x7b" in name:
            continue
        sizes = sizes_of(load_model_file(file))
        words = re.sub(r"(?<=[a-z])(?=\d)", "-?", re.escape(name).replace("\\-", "-?"))
        shape = Transformer(
            layers=sizes.layers,
            hidden=sizes.hidden,
            heads=sizes.heads,
            kv_heads=sizes.key_heads,
            feed_forward=sizes.feed_forward,
            vocabulary=sizes.vocabulary,
            gated=sizes.gated,
            rotary=not name.startswith("gpt2"),
            root_mean_square=sizes.gated,
            tied=sizes.tied,
        )
        found.append((re.compile(words), shape))
    return found


def _by_size(size: float, causal: bool) -> Transformer:
    """Layers and width in the proportion of the GPT-3 family: a layer for about 128 of width."""
    hidden = max(256, round((size * 128 / 12) ** (1 / 3) / 128) * 128)
    layers = max(1, round((size - 51200 * hidden) / (12 * hidden**2)))
    return _shape(layers, hidden, hidden // 128, hidden // 128, 4 * hidden, 51200, False, causal)
