"""Why a program did not end well, in words that say what to do, read from what its ranks left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.race.explain import explain

SECOND_MODEL = """Traceback (most recent call last):
  File "/site-packages/deepspeed/utils/groups.py", line 1, in _create_zero_param_parallel_group
AssertionError: ZeRO parameter intra parallel group is already initialized
"""


def test_a_second_model_under_hpz_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "log-1.txt").write_text(SECOND_MODEL)
    problem = explain(tmp_path, 2, {"how": "failed", "failed": [(1, 1)]})
    assert problem.startswith("rank 1 failed: AssertionError: ZeRO parameter intra parallel group")
    assert "build both models under one zero.Init" in problem and "#4901" in problem


def test_a_dead_lock_that_a_rank_waits_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    lock = tmp_path / "extensions" / "fused_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    (tmp_path / "log-0.txt").write_text(
        '  File "/deepspeed/ops/op_builder/builder.py", line 613, in jit_load\n'
    )
    problem = explain(tmp_path, 1, {"how": "timeout"})
    assert problem.startswith("the time limit passed: rank 0 at /deepspeed/ops/op_builder/builder.py")
    assert f"rm {lock}" in problem
    (tmp_path / "log-0.txt").write_text('  File "/home/me/train.py", line 3, in main\n')
    assert "rm " not in explain(tmp_path, 1, {"how": "timeout"})


def test_a_script_that_does_not_parse_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "log-0.txt").write_text("""Traceback (most recent call last):
  File "/clone/harness/race/script.py", line 48, in _of_script
  File "/home/me/train.py", line 18
    loss =
          ^
SyntaxError: invalid syntax
""")
    problem = explain(tmp_path, 1, {"how": "failed", "failed": [(0, 1)]})
    assert problem == "rank 0 failed: SyntaxError: invalid syntax (in /home/me/train.py:18)"


def test_the_line_that_called_torch_is_named_and_not_torchs_own(tmp_path: Path) -> None:
    (tmp_path / "log-0.txt").write_text("""Traceback (most recent call last):
  File "/home/me/train.py", line 7, in main
    head(x)
  File "/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", line 125, in forward
    return F.linear(input, self.weight, self.bias)
RuntimeError: mat1 and mat2 shapes cannot be multiplied
""")
    problem = explain(tmp_path, 1, {"how": "failed", "failed": [(0, 1)]})
    assert problem.endswith("cannot be multiplied (in /home/me/train.py:7, main)")
