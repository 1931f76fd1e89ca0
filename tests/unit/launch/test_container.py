"""A container in a profile: what it may say, what srun and the runtime are told, and which image is written down."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from pathlib import Path

import pytest

from harness.launch.slurm.container import Container, digest, ranks_see
from harness.launch.slurm.ended import judge
from harness.launch.slurm.profile import load_profile
from harness.record import RunDirectory
from harness.study import Study, load_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.variants.series import supported_releases
from tests.conftest import StudyFile
from tests.submitted import command
from tests.synthetic import STUDY

DEFINITIONS = ("Dockerfile", "apptainer.def")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "give one of pyxis: {image: …}, apptainer: {image: …}, or a list"),
        ("{pyxis: {image: a}, apptainer: {image: b}}", "give one of pyxis"),
        ("{apptainer: {}}", r"container\.apptainer\.image is missing; give it"),
        ("{apptainer: {imge: a}}", r"container\.apptainer\.\w+"),
        (
            "{apptainer: {image: a, mount: [/x]}}",
            r"container\.apptainer\.mount is not a key; did you mean 'mounts'",
        ),
        ("{docker: {image: a}}", r"container\.docker is not a key.*apptainer, pyxis, words"),
        (
            "{apptainer: {image: hpz.sif}}",
            r"container\.apptainer\.image: a file is named by its absolute path",
        ),
        ("{pyxis: {image: a, mounts: ['a,b']}}", r"'a,b' is no mount; write /HOST"),
        ("{pyxis: {image: a, workdir: here}}", r"container\.pyxis\.workdir: must be an absolute path"),
        ("{pyxis: {image: a, options: [rm]}}", "'rm' is no option"),
        ("{pyxis: {image: --overlay}}", "must be one line of printable text, and no option"),
    ],
)
def test_what_is_wrong_with_a_container_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"container: {text}")
    with pytest.raises(HarnessError, match=rf"mine\.yaml: .*{message}"):
        load_profile(tmp_path / "mine.yaml")


def test_a_list_of_words_is_put_before_python_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("container: [podman, run, --rm, image]")
    container = load_profile(tmp_path / "mine.yaml").container
    assert container is not None and container.python("/venv/bin/python") == "/venv/bin/python"
    assert container.before_python(["/r"], "/r", gpus=True) == ["podman", "run", "--rm", "image"]
    assert container.srun_options(["/r"], "/r", []) == []


def test_apptainer_asks_for_gpus_only_where_there_are_any() -> None:
    container = Container.model_validate({"apptainer": {"image": "/a.sif", "options": ["--no-home"]}})
    words = container.before_python(["/r"], "/r", gpus=False)
    assert "--nv" not in words and words[-2:] == ["--no-home", "/a.sif"]
    assert "--nv" in container.before_python(["/r"], "/r", gpus=True)


def test_ranks_see_results_code_cache_and_their_own_data_once_each(
    study_file: StudyFile, tmp_path: Path, cache: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a b c " * 1000)
    study = load_study(study_file(data={"file": str(text)}))
    results = tmp_path / "results"
    seen = ranks_see(results, results / "code" / "0123", study.runs)
    assert seen == (str(cache), str(results), str(text))


@pytest.mark.usefixtures("made_up_patches")
def test_a_path_that_no_mount_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="a:b: a container cannot mount a path with a colon"):
        ranks_see(tmp_path / "a:b", Path("/hpz"), Study.model_validate(STUDY).runs)


def test_a_files_digest_is_worked_out_once_until_the_file_changes(tmp_path: Path) -> None:
    image = tmp_path / "hpz.sqsh"
    image.write_bytes(b"one")
    expected = f"sha256:{hashlib.sha256(b'one').hexdigest()}"
    assert digest(str(image), enroot=True) == expected
    stamp = image.stat()
    image.write_bytes(b"two")
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert digest(str(image), enroot=True) == expected  # as large and as old: not read again
    os.utime(image)
    assert digest(str(image), enroot=True) == f"sha256:{hashlib.sha256(b'two').hexdigest()}"


def test_the_digest_of_an_image_that_is_fetched_is_what_is_said_of_it_or_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = "sha256:" + "ab" * 32
    monkeypatch.setenv("PATH", str(tmp_path))
    assert digest(f"nvcr.io#nvidia/pytorch@{known}", enroot=True) == known
    assert digest("docker://python:3.12", enroot=False) == "unknown"
    assert digest("nvcr.io#nvidia/pytorch:26.01-py3", enroot=True) == "unknown"
    command(tmp_path, "enroot", f'test "$2" = docker://nvcr.io#nvidia/pytorch:26.01-py3 && echo {known}')
    assert digest("nvcr.io#nvidia/pytorch:26.01-py3", enroot=True) == known


def test_an_image_that_is_not_here_is_told_and_no_error() -> None:
    assert "/no/a.sif is not here" in (
        Container.model_validate({"apptainer": {"image": "/no/a.sif"}}).missing() or ""
    )
    assert Container.model_validate({"pyxis": {"image": "python:3.12"}}).missing() is None


@pytest.mark.usefixtures("made_up_patches")
def test_a_container_that_does_not_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    said = [
        "FATAL: container creation failed: no such mount",
        "srun: error: n0: tasks 0-3: Exited with exit code 255",
    ]
    ended = judge(RunDirectory(tmp_path), Study.model_validate(STUDY).runs[0], (0, 4), 255, said, asked=False)
    assert ended.reason == "rank 0 ended with code 255: FATAL: container creation failed: no such mount"


@pytest.mark.usefixtures("made_up_patches")
def test_a_run_names_its_container(tmp_path: Path) -> None:
    run = Study.model_validate(STUDY).runs[0]
    container = Container.model_validate({"pyxis": {"image": "python:3.12"}}).record()
    RunDirectory(tmp_path).create(run, "0123", container)
    assert '"image": "python:3.12"' in (tmp_path / "run.json").read_text()


def pinned() -> dict[str, str]:
    """The version of each package as constraints.txt pins it."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_images_are_built_at_the_versions_that_are_pinned(name: str) -> None:
    text = (REPOSITORY / "slurm" / "container" / name).read_text()
    named = dict(re.findall(r"\b(torch|deepspeed|transformers)==([\d.]+)", text))
    assert named == {package: pinned()[package] for package in ("torch", "deepspeed", "transformers")}
    assert named["deepspeed"] == supported_releases()[-1]


def test_both_definitions_are_of_one_base_and_install_the_same() -> None:
    docker, apptainer = ((REPOSITORY / "slurm" / "container" / name).read_text() for name in DEFINITIONS)
    base = re.search(r"ARG BASE=(\S+)", docker)
    assert base and f"From: {base[1]}" in apptainer
    installed = [
        re.findall(r"pip install .*?(?= \\| &&|$)", text, re.MULTILINE) for text in (docker, apptainer)
    ]
    assert installed[0] == installed[1] != []


def test_the_images_python_is_one_that_the_project_runs_on() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"  # Ubuntu 24.04 has 3.12
    for name in DEFINITIONS:
        assert "ubuntu24.04" in (REPOSITORY / "slurm" / "container" / name).read_text()
