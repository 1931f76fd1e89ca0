"""`hpz race --script` on what users bring: a bare DeepSpeed loop, a Hugging Face Trainer, a script for CUDA alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from harness.cli.race import race
from harness.system.errors import HarnessError
from tests.deepspeed.race.race_help import SCRIPTS

app = typer.Typer()
app.command()(race)


def hpz_race(*words: str, results: Path) -> dict[str, object]:
    done = CliRunner().invoke(app, [*words, "--results", str(results), "--json"], catch_exceptions=False)
    content: dict[str, object] = json.loads(done.stdout)
    return content


def labels(report: dict[str, object]) -> set[str]:
    return {race["label"] for race in report["races"]}  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["bare_loop", "hf_trainer", "hf_imported"])
def test_a_users_script_shows_the_race_of_an_unordered_deepspeed(script: str, tmp_path: Path) -> None:
    words = (
        "--script",
        str(SCRIPTS / f"{script}.py"),
        "--ranks",
        "2",
        "--variant",
        "unordered",
        "--no-explore",
    )
    report = hpz_race(*words, results=tmp_path)
    assert labels(report) == {"hpz-secondary-copy"}
    assert report["problems"] == []
    assert report["steps"] == 2
    names = [name for race in report["races"] for name in race["names"]]  # type: ignore[attr-defined]
    assert any(name.endswith("weight.ds_secondary_tensor") for name in names)


@pytest.mark.slow
def test_a_config_file_is_laid_over_what_the_script_passes(tmp_path: Path) -> None:
    config = tmp_path / "ds_config.json"
    config.write_text(json.dumps({"zero_optimization": {"overlap_comm": False}, "bf16": "auto"}))
    script = str(SCRIPTS / "bare_loop.py")
    words = (
        "--script",
        script,
        "--ranks",
        "2",
        "--variant",
        "unordered",
        "--config",
        str(config),
        "--no-explore",
    )
    assert labels(hpz_race(*words, results=tmp_path)) == set()


def test_a_script_that_fails_before_it_trains_says_that_first(tmp_path: Path) -> None:
    script = str(SCRIPTS / "stuck.py")
    words = ["--script", script, "--ranks", "2", "--results", str(tmp_path), "--", "broken"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 1
    headline, *rest = done.stdout.splitlines()
    assert re.fullmatch(
        r"stuck.py FAILED before its first training step: rank \d failed: KeyError: 'no such layer' "
        r"\(in tests/deepspeed/race/scripts/stuck.py:41, broken\)",
        headline,
    )
    assert rest[0].startswith("until then, stuck.py, 2 ranks, 0 steps, ")
    report = json.loads((tmp_path / "races.json").read_text())
    assert (report["ranks"], report["steps"], len(report["problems"])) == (2, 0, 1)


def test_a_script_that_asks_for_cuda_by_name_is_refused_with_the_line(tmp_path: Path) -> None:
    words = ["--script", str(SCRIPTS / "hard_coded_cuda.py"), "--ranks", "1", "--results", str(tmp_path)]
    words.append("--no-map-cuda")
    with pytest.raises(
        HarnessError, match=r"hard_coded_cuda.py:5 \(stream = torch.cuda.Stream\(\)\) asks for CUDA"
    ):
        CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("event", r"without_cuda.py:11 \(torch.cuda.Event\(\).record\(\)\) asks for CUDA by name"),
        ("on_the_host", "without_cuda.py ran no op on the virtual device, so nothing was analysed"),
        ("mixed", r"without_cuda.py:22 \(.*\) computes with host and device tensors together"),
    ],
)
def test_a_script_that_looks_for_cuda_is_told_what_to_write(
    tmp_path: Path, program: str, message: str
) -> None:
    script = str(SCRIPTS / "without_cuda.py")
    words = ["--no-map-cuda", "--script", script, "--ranks", "1", "--results", str(tmp_path), "--", program]
    with pytest.raises(HarnessError, match=f"{message}.*get_accelerator"):
        CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--script", "nowhere.py"], "--script nowhere.py: no such file"),
        ([], "give a run directory, a study file, --script FILE or --replay FILE"),
        (["--replay", "nowhere.json"], "nowhere.json: cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        CliRunner().invoke(app, words, catch_exceptions=False)
