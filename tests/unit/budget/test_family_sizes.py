"""Sizes of families whose configurations name or mean them differently."""

from __future__ import annotations

from typing import Any

import pytest

from harness.budget.sizes import sizes_of
from harness.study.models import parse_model


@pytest.mark.parametrize(
    ("config", "hidden", "head"),
    [
        # BLOOM's published configurations say n_embed.
        ({"model_type": "bloom", "n_embed": 64, "n_layer": 2, "num_attention_heads": 4}, 64, 16),
        # DeepSeek-V3: keys are 128 + 64 wide and values 128, whatever hidden size and heads divide to.
        (
            {
                "model_type": "deepseek_v3",
                "hidden_size": 7168,
                "num_hidden_layers": 61,
                "num_attention_heads": 128,
                "head_dim": 64,
                "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64,
                "v_head_dim": 128,
            },
            7168,
            160,
        ),
    ],
)
def test_hidden_and_head_size_are_the_familys(config: dict[str, Any], hidden: int, head: int) -> None:
    content = {
        "source": "a test",
        "parameters": 512,
        "config": {**config, "vocab_size": 512},
        "shapes": {"embed.weight": [512, 1]},
    }
    sizes = sizes_of(parse_model(content, "test"))
    assert (sizes.hidden, sizes.head) == (hidden, head)
