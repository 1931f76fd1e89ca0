"""The site builds without a warning: every link and anchor leads somewhere, every page is in the navigation."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

from harness.system.places import REPOSITORY

mkdocs_config = pytest.importorskip("mkdocs.config")


def test_the_site_builds_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    from mkdocs.commands.build import build

    config = mkdocs_config.load_config(str(REPOSITORY / "mkdocs.yml"), strict=True, site_dir=str(tmp_path))
    build(config)  # strict: a warning is an error
    assert (tmp_path / "index.html").is_file()


def test_badges_say_what_the_package_says() -> None:
    badges = unquote(
        " ".join(re.findall(r"img\.shields\.io/badge/(\S+)\)", (REPOSITORY / "README.md").read_text()))
    )
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"licence-{project['license'].replace('-', '--')}-" in badges
    assert f"python-{project['requires-python'].replace('>=', '≥ ')}-" in badges


def test_readme_is_read_in_one_go() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 135
