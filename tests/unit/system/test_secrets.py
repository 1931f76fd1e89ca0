"""Tokens, keys and passwords are told from what may be written down, by names and by the look of values."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from harness.system.errors import HarnessError
from harness.system.secrets import (
    Veiled,
    hidden,
    is_secret,
    is_secret_name,
    refuse_secrets,
    secrets_in,
    without_secrets,
)
from tests.planted import PLANTED

COMMIT = "a" * 40


@pytest.mark.parametrize(
    "name",
    [
        *(
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "WANDB_API_KEY",
            "NGC_API_KEY",
            "OPENAI_API_KEY",
            "GITHUB_TOKEN",
        ),
        *("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_ANYTHING"),
        *("DB_PASSWORD", "PGPASSWORD", "SSHPASS", "CLIENT_SECRET", "SLURM_JWT", "MLFLOW_TRACKING_PASSWORD"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "APPTAINER_DOCKER_PASSWORD", "DOCKER_AUTH_CONFIG", "SENTRY_DSN"),
        "AZURE_STORAGE_CONNECTION_STRING",
    ],
)
def test_a_variable_is_secret_by_its_name(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "OMP_NUM_THREADS", "PWD", "KEYBOARD", "SLURM_JOB_ID"),
        *("AWS_REGION", "AWS_OFI_NCCL_PROTOCOL", "SSH_AUTH_SOCK", "TOKENS_PER_STEP", "HF_TOKEN_PATH"),
    ],
)
def test_a_variable_is_not_secret_by_a_part_of_its_name(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize("value", PLANTED.values(), ids=PLANTED)
def test_a_value_is_hidden_wherever_it_stands_once_our_environment_names_it_secret(value: str) -> None:
    said = hidden(f"the server refused {value}.", {**PLANTED, "X": value})
    assert value not in said and said.startswith("the server refused ")


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_ACCESS_KEY_ID", "GITHUB_TOKEN", "https_proxy", "WANDB_API_KEY"]
)
def test_a_value_is_secret_by_its_look_whatever_it_is_called(name: str) -> None:
    assert is_secret("HARMLESS", PLANTED[name])


def test_a_commit_is_no_key_though_it_looks_like_one() -> None:
    assert not is_secret("CI_COMMIT_SHA", COMMIT)
    line = f"HEAD is now at {COMMIT}, see models/x/resolve/{COMMIT}/config.json"
    assert hidden(line, {}) == line
    assert COMMIT not in hidden(f"paste your key: {COMMIT}", {})


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("export SOME_TOKEN=abcdef123", "export SOME_TOKEN=[hidden]"),
        ('{"api_key": "abcdef123", "step": 3}', '{"api_key": "[hidden]", "step": 3}'),
        ("train.py --hub-token abcdef123 --steps 10", "train.py --hub-token [hidden] --steps 10"),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer [hidden]"),
        ("https://me:abcdef@host/x", "https://[hidden]@host/x"),
    ],
)
def test_only_the_secret_itself_is_hidden(text: str, left: str) -> None:
    assert hidden(text, {}) == left


@pytest.mark.parametrize(
    "text",
    [
        "export HF_TOKEN=$(cat ~/.hf)",
        "WANDB_API_KEY=${KEY}",
        "git clone git@github.com:a/b ssh://git@host/x",
        '"train_tokens": 4096, "eos_token": "</s>", tokens=123456, PAD_TOKEN=<pad_id>',
        "MAX_TOKENS=1000000",
        "sort(key=itemgetter)",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert hidden(text, {}) == text


def test_an_environment_is_kept_without_its_secrets() -> None:
    assert without_secrets({**PLANTED, "NCCL_DEBUG": "WARN", "A": "1"}) == {"A": "1", "NCCL_DEBUG": "WARN"}


def test_the_line_of_a_secret_is_told_and_not_the_secret() -> None:
    (found,) = secrets_in(f"a\nb\nc {PLANTED['HF_TOKEN']}\n", {})
    assert (found.line, found.what) == (3, "hf_P…")


def test_a_file_that_would_be_copied_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"a: 1\nwandb:\n  WANDB_API_KEY: {PLANTED['WANDB_API_KEY']}\n")
    with pytest.raises(
        HarnessError, match=r"mine\.yaml: line 3 holds what looks like a secret \(WANDB_API_KEY\)"
    ):
        refuse_secrets(tmp_path / "mine.yaml", "it is copied")


def test_what_is_printed_is_cleaned_and_the_stream_stays_one() -> None:
    stream = Veiled(io.StringIO())
    print("token", PLANTED["GITHUB_TOKEN"], file=stream)  # type: ignore[call-overload]
    stream.flush()
    assert stream.getvalue() == "token [hidden]\n"
