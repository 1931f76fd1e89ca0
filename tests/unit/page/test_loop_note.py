"""The report says with what runs trained, and where that differs from a GPU's default or from another study."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.page.loop import loop_note, loops_differ


def summary(device: str, attention: list[str], optimizer: list[str]) -> dict[str, Any]:
    return {
        "pairs": [{"device": device}],
        "trained_with": {"attention": attention, "optimizer": optimizer},
    }


@pytest.mark.parametrize(
    ("device", "attention", "words"),
    [
        (
            "virtual",
            ["eager"],
            "which the virtual device can order; on a GPU attention sdpa and optimizer adamw-fused",
        ),
        ("cuda", ["eager", "sdpa"], "Trained with attention eager or sdpa; optimizer adamw."),
    ],
)
def test_what_runs_trained_with_is_said(device: str, attention: list[str], words: str) -> None:
    assert words in loop_note(summary(device, attention, ["adamw"]))


def test_two_studies_that_differ_in_it_say_so_and_others_do_not() -> None:
    virtual, gpu = summary("virtual", ["eager"], ["adamw"]), summary("cuda", ["sdpa"], ["adamw"])
    assert (
        loops_differ(gpu, virtual) == "The two did not train with the same: attention sdpa here, eager there."
    )
    assert loops_differ(gpu, gpu) is None and loops_differ(gpu, {}) is None
