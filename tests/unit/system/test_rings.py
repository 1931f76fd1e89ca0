"""Tests that share what is started once go to one worker, all others wherever one is free."""

from __future__ import annotations

import pytest

from tests.rings import HERE, TOGETHER, unit_of


@pytest.mark.parametrize(
    ("node_id", "unit"),
    [
        ("tests/slurm/test_arrays.py::test_a", "tests/slurm/"),
        ("tests/slurm/test_training.py::test_a", "tests/slurm/test_training.py"),
        ("tests/unit/judge/test_wire.py::test_a[1]", "tests/unit/judge/test_wire.py::test_a[1]"),
    ],
)
def test_what_shares_a_fixture_stays_together(node_id: str, unit: str) -> None:
    assert unit_of(node_id) == unit


@pytest.mark.parametrize("start", TOGETHER)
def test_what_stays_together_is_there(start: str) -> None:
    assert (HERE.parent / start).exists()
