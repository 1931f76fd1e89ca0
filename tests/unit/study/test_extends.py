"""`extends:` merges mappings, replaces everything else, and says what it cannot follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.study import load_study
from harness.study.extends import merged
from harness.system.errors import HarnessError
from tests.planted import PLANTED

BASE: dict[str, Any] = {
    "name": "base",
    "device": "cpu",
    "training": {"steps": 8, "micro_batch": 1, "warmup_steps": 2},
    "deepspeed": {"zero_optimization": {"stage3_prefetch_bucket_size": 10, "reduce_bucket_size": 20}},
    "matrix": [{"model": "llama2-toy", "variant": ["stock", "fixed"], "shape": "2x2-hpz2"}],
}


def write(folder: Path, name: str, content: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(yaml.safe_dump(content))
    return file


def test_mappings_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    study = load_study(
        write(
            tmp_path,
            "small.yaml",
            {
                "extends": "base.yaml",
                "name": "small",
                "training": {"steps": 4},
                "deepspeed": {"zero_optimization": {"reduce_bucket_size": 5}},
                "matrix": [{"model": "falcon-7b-toy", "variant": "event", "shape": "2x2-hpz2"}],
            },
        )
    )
    assert (study.training.steps, study.training.micro_batch) == (4, 1)
    assert study.deepspeed["zero_optimization"] == {
        "stage3_prefetch_bucket_size": 10,
        "reduce_bucket_size": 5,
    }
    assert {run.model for run in study.runs} == {"falcon-7b-toy"}


def test_null_takes_a_key_away_so_that_its_default_holds(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    study = load_study(
        write(tmp_path, "own.yaml", {"extends": "base.yaml", "training": {"warmup_steps": None}})
    )
    assert study.training.warmup_steps == 0


def test_a_base_may_extend_another_and_its_paths_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "corpus.txt").write_text("some words " * 999)
    write(tmp_path / "shared", "base.yaml", {**BASE, "data": {"file": "corpus.txt"}})
    write(tmp_path / "shared", "middle.yaml", {"extends": "base.yaml", "training": {"steps": 6}})
    study = load_study(write(tmp_path / "mine", "own.yaml", {"extends": "../shared/middle.yaml"}))
    assert study.training.steps == 6
    assert study.data.path == str(tmp_path / "shared" / "corpus.txt")


def test_results_hold_the_study_as_resolved(tmp_path: Path) -> None:
    from harness.study import save_study

    write(tmp_path, "base.yaml", BASE)
    study = load_study(write(tmp_path, "own.yaml", {"extends": "base.yaml", "training": {"steps": 4}}))
    saved = load_study(save_study(study, tmp_path / "results"))
    assert [run.run_id for run in saved.runs] == [run.run_id for run in study.runs]


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("nowhere.yaml", "extends names no file 'nowhere.yaml'"),
        (["a.yaml", "b.yaml"], "give the path of one study file"),
        ("own.yaml", "goes round in a circle"),
    ],
)
def test_what_cannot_be_extended_is_one_sentence(tmp_path: Path, base: Any, words: str) -> None:
    file = write(tmp_path, "own.yaml", {**BASE, "extends": base})
    with pytest.raises(HarnessError, match=words):
        load_study(file)


tables = st.recursive(
    st.integers() | st.lists(st.integers()),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), tables))
def test_a_file_over_itself_or_over_nothing_changes_nothing(content: dict[str, Any]) -> None:
    assert merged(content, content) == content == merged(content, {}) == merged({}, content)


@pytest.mark.parametrize("where", ["base.yaml", "small.yaml"])
def test_a_secret_in_a_study_or_its_base_is_refused(where: str, tmp_path: Path) -> None:
    note = {where: {"question": f"Does {PLANTED['HF_TOKEN']} work?"}}
    write(tmp_path, "base.yaml", BASE | note.get("base.yaml", {}))
    file = write(
        tmp_path, "small.yaml", {"extends": "base.yaml", "name": "small"} | note.get("small.yaml", {})
    )
    with pytest.raises(
        HarnessError, match=rf"{where}: line \d+ holds what looks like a secret .*with the results"
    ):
        load_study(file)
