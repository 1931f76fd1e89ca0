"""Any Hugging Face configuration as a model: from a folder, a file or a name, with torch and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.study import any_model, hugging_face, load_study, model_name, parameter_shapes, parse_model
from harness.study.hugging_face import model_content, model_text
from harness.system.errors import HarnessError
from tests.conftest import StudyFile

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "eos_token_id": 151643,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Asked once for all tests: torch takes seconds to start."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPZ_CACHE", str(shared_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As somebody downloaded it."""
    folder = tmp_path / "tiny-qwen"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_a_folder_and_its_config_json_are_the_same_model(folder: Path) -> None:
    model = any_model(folder)
    assert parameter_shapes(model) == parameter_shapes(any_model(folder / "config.json"))
    assert parameter_shapes(model)[:3] == [
        ("model.embed_tokens.weight", (512, 32)),
        ("model.layers.0.self_attn.q_proj.weight", (32, 32)),
        ("model.layers.0.self_attn.q_proj.bias", (32,)),
    ]


def test_tied_embeddings_are_counted_once(folder: Path) -> None:
    assert "lm_head.weight" not in dict(parameter_shapes(any_model(folder)))


def test_keys_that_decide_no_shape_and_no_step_are_left_out(folder: Path) -> None:
    kept = model_content(str(folder))["config"]
    assert not {"architectures", "torch_dtype", "eos_token_id"} & kept.keys() and kept["hidden_size"] == 32


def test_of_a_model_that_also_sees_the_language_part_is_taken() -> None:
    config = {"model_type": "gemma3", "vision_config": {}, "text_config": CONFIG}
    assert hugging_face.language_part(config)["model_type"] == "qwen2"


def test_a_model_file_can_be_read_back(folder: Path, tmp_path: Path) -> None:
    content = model_content(str(folder))
    file = tmp_path / "models" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(model_text(content, counted=True))
    assert any_model("mine", tmp_path) == any_model(file) == parse_model(content, "x")


def test_a_published_count_that_is_another_is_refused(folder: Path) -> None:
    with pytest.raises(HarnessError, match=r"x: parameters: 7 stated, but the shapes give 39840"):
        parse_model(model_content(str(folder), parameters=7), "x")


def test_what_was_asked_once_is_known_without_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = any_model(folder)
    monkeypatch.setattr(hugging_face, "_transformers", lambda: None)
    assert any_model(folder) == asked


def test_without_torch_a_model_file_must_be_written_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(hugging_face, "_transformers", lambda: None)
    with pytest.raises(
        HarnessError, match=r"torch or transformers is not installed; write a model file .*hpz model add"
    ):
        any_model(folder)


def test_shapes_of_another_transformers_are_asked_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "own"))
    any_model(folder)
    (cached,) = (Path(hugging_face.cache_folder()) / "models").glob("*.json")
    cached.write_text(json.dumps({"transformers": "4.0.0", "shapes": {"wrong": [1]}}))
    assert "wrong" not in dict(parameter_shapes(any_model(folder)))


def test_a_family_that_transformers_does_not_know_is_named(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_type": "mamba9"}))
    with pytest.raises(
        HarnessError, match=r"tiny-qwen: config: transformers [\d.]+ makes no model of model_type 'mamba9'"
    ):
        any_model(folder)


def test_a_model_that_is_no_language_model_is_named(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "vocab_size": 512}))
    with pytest.raises(HarnessError, match=r"no causal language model can be made of model_type 't5'"):
        any_model(folder)


def test_sizes_that_do_not_fit_are_named(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": "many"}))
    with pytest.raises(
        HarnessError, match=r"config: transformers .* expected int, got str .*; mend the config"
    ):
        any_model(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config.json: not JSON \(.*\); give a Hugging Face config.json"),
        ('{"train_batch_size": 8}', r"config.json: no Hugging Face configuration, as it names no model_type"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(HarnessError, match=message):
        any_model(folder)


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"config.json: cannot be read .*; give a folder with a config.json"
    ):
        any_model(tmp_path)


def test_a_name_that_the_hub_does_not_give_is_named() -> None:
    with pytest.raises(
        HarnessError, match=r"some/body: no folder, .* the Hub did not give it .* give a folder with its"
    ):
        any_model("some/body")


def test_without_torch_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face, "_transformers", lambda: None)
    with pytest.raises(HarnessError, match=r"to ask the Hub, torch and transformers must be installed"):
        any_model("some/one")


def test_a_path_that_is_not_there_is_not_asked_of_the_hub() -> None:
    with pytest.raises(HarnessError, match=r"gone/config.json: no folder, no config.json, no model file"):
        any_model("gone/config.json")


def test_names_are_derived() -> None:
    assert model_name("meta-llama/Llama-3.1-8B") == "Llama-3.1-8B"
    assert model_name("weights/tiny qwen/config.json") == "tiny-qwen"
    assert model_name("experiments/models/gpt2.yaml") == "gpt2"


def test_a_study_names_a_configuration_beside_names(study_file: StudyFile, folder: Path) -> None:
    matrix = {"model": ["llama2-toy", {"hf": str(folder)}], "variant": "fixed", "shape": "2x2-hpz2"}
    study = load_study(study_file(matrix=matrix))
    assert {run.model for run in study.runs} == {"llama2-toy", "tiny-qwen"}
    assert study.models["tiny-qwen"]["config"]["model_type"] == "qwen2"


def test_a_results_folder_holds_the_model_itself(
    study_file: StudyFile, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.study import save_study

    matrix = {"model": {"hf": str(folder)}, "variant": "fixed", "shape": "2x2-hpz2"}
    study = load_study(study_file(matrix=matrix))
    results = folder.parent / "results"
    save_study(study, results)
    (folder / "config.json").unlink()
    monkeypatch.setattr(hugging_face, "_transformers", lambda: None)
    assert [run.run_id for run in load_study(results).runs] == [run.run_id for run in study.runs]


def test_a_study_scales_down_what_it_names(study_file: StudyFile) -> None:
    toys = [{"hf": "gpt2", "scale": 32}, {"hf": "gpt2", "scale": 32, "unaligned": True}]
    study = load_study(study_file(matrix={"model": toys, "variant": "fixed", "shape": "2x2-hpz2"}))
    assert {run.model for run in study.runs} == {"gpt2-toy", "gpt2-toy-unaligned"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"hf": "gpt2", "scala": 64}, r"tiny.yaml: model.scala is not a key; did you mean 'scale'"),
        ({"name": "mine"}, r"tiny.yaml: model.hf is missing; give it"),
        ({"hf": "gpt2", "unaligned": True}, r"tiny.yaml: model.unaligned: only a toy can be; give scale:"),
        (
            [{"hf": "gpt2", "scale": 32}, {"hf": "gpt2", "scale": 64}],
            r"two models would be called 'gpt2-toy'; tell them apart with name:",
        ),
        (
            ["gpt2-toy", {"hf": "gpt2", "scale": 32}],
            r"model 'gpt2-toy' is named as a model file and is also the name of \{hf: gpt2\}",
        ),
    ],
)
def test_a_model_that_a_study_says_badly_is_refused(study_file: StudyFile, model: Any, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        load_study(study_file(matrix={"model": model, "variant": "fixed", "shape": "2x2-hpz2"}))
