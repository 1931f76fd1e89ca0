"""What others start without us, CI and the CPU container, names targets and files that exist."""

from __future__ import annotations

import re
import tomllib

import yaml

from harness.system.places import REPOSITORY

TARGETS = set(re.findall(r"^([a-z]+(?: [a-z]+)*):(?!=)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
NAMES = {name for line in TARGETS for name in line.split()}


def test_ci_calls_make_test_and_needs_no_secret() -> None:
    text = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()
    steps = yaml.safe_load(text)["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make test"]
    assert "secrets" not in re.sub(r"#.*", "", text)
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_the_cpu_container_copies_what_is_there_before_it_installs() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert all(list(REPOSITORY.glob(word)) for word in copied if word not in ("wheelhouse*", "."))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    # What an editable installation reads and maps: both packages' doors, the readme and the licence.
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= set(copied)
    assert {"harness/__init__.py", "analysis/__init__.py", "setup.py", "constraints.txt"} <= set(copied)


def test_what_is_made_in_the_container_and_told_in_the_appendix_are_targets() -> None:
    for name in ("Dockerfile", "ARTIFACT.md"):
        text = (REPOSITORY / name).read_text()
        assert set(re.findall(r"\bmake ([a-z]+)\b", text)) - {"use"} <= NAMES
