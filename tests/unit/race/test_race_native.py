"""Packages whose kernels need a GPU: what a program finds of them, and what it is told."""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from harness.race.job import Program
from harness.race.native import hide_native
from harness.race.script import Main
from harness.system.errors import HarnessError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Runs a program as a rank does; gives its names."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(builtins, "__import__", builtins.__import__)

    def run_source(source: str) -> dict[str, Any]:
        script = tmp_path / "train.py"
        script.write_text(source)
        main = Main(Program(1, script=str(script), map_cuda=True, local_rank=True))
        main.run()
        return main.names

    with mock.patch.dict(sys.modules):
        hide_native()
        yield run_source


def test_who_looks_for_kernels_finds_none(run: Callable[[str], dict[str, Any]]) -> None:
    names = run("try:\n    import flash_attn\nexcept ImportError:\n    flash_attn = None\n")
    assert names["flash_attn"] is None


def test_a_plain_import_is_refused_once_it_is_used(run: Callable[[str], dict[str, Any]]) -> None:
    source = "from flash_attn.flash_attn_interface import flash_attn_func as f\nimport bitsandbytes as bnb\n"
    assert not run(source + "known = isinstance(1, bnb.nn.Linear4bit)")["known"]
    with pytest.raises(
        HarnessError, match=r"train.py:3 \(f\(1\)\) needs flash_attn, whose kernels need a GPU"
    ):
        run(source + "f(1)")


def test_a_class_of_such_a_package_can_be_a_base_but_not_be_made(
    run: Callable[[str], dict[str, Any]],
) -> None:
    source = "import bitsandbytes as bnb\nclass Mine(bnb.nn.Linear4bit): pass\n"
    run(source)
    with pytest.raises(HarnessError, match="needs bitsandbytes"):
        run(source + "Mine()")


@pytest.mark.usefixtures("run")
def test_what_needs_no_kernel_is_found() -> None:
    padding = importlib.import_module("flash_attn.bert_padding")
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    hidden_states = torch.arange(12.0).reshape(2, 3, 2) + 1

    rows, places, ends, longest, used = padding.unpad_input(hidden_states, mask)

    assert rows.tolist() == [[1, 2], [3, 4], [7, 8]]
    assert (ends.tolist(), longest, used.tolist()) == ([0, 2, 3], 2, [2, 1])
    assert torch.equal(padding.pad_input(rows, places, 2, 3), hidden_states * mask.unsqueeze(-1))
