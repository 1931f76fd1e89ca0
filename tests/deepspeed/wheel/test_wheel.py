"""The wheel alone, in an environment without this checkout, does what the README promises."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from harness import __version__
from harness.system.places import REPOSITORY, cache_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m build` makes of the files that git knows, or would."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    words = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, subprocess.run(words, capture_output=True, text=True).stdout.split("\0")):
        if name.startswith(("tests/", "docs/")) or not (REPOSITORY / name).is_file():
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source))
    return dist


@pytest.fixture(scope="module")
def hpz(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command as installed from the wheel; of this environment it sees all packages but the checkout."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "zz-layer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(home / "bin" / "python")]
    run(*pip, "install", "--no-deps", "--no-index", str(wheel))
    return home / "bin" / "hpz"


@pytest.fixture(scope="module")
def outside(hpz: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a stranger: a cache of its own, with the releases that were fetched, and no PYTHONPATH."""
    cache = tmp_path_factory.mktemp("cache")
    if (cache_folder() / "releases").is_dir():
        (cache / "releases").symlink_to(cache_folder() / "releases")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"HPZ_CACHE": str(cache)}


def run(*words: str, **known: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False, **known)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def test_what_is_uploaded_passes_the_check_of_twine(dist: Path) -> None:
    files = sorted(map(str, dist.iterdir()))
    assert [Path(file).suffix for file in files] == [".whl", ".gz"]
    run(sys.executable, "-m", "twine", "check", "--strict", *files)


def test_the_wheel_states_its_version_and_licence_and_holds_no_tests(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    assert f"Version: {__version__}\n" in text and "License-Expression: Apache-2.0\n" in text
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"harness", "analysis"}
    assert "harness/_shipped/patches/releases.toml" in names


def test_every_file_of_the_packages_is_in_the_wheel(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    words = [
        "git",
        "-C",
        str(REPOSITORY),
        "ls-files",
        "harness",
        "analysis",
        "patches",
        "experiments",
        "slurm",
    ]
    known = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert known
    names = set(ZipFile(wheel).namelist())
    there = {name for name in known if (REPOSITORY / name).exists() and not name.endswith(".ipynb")}
    assert not {name for name in there if not {name, f"harness/_shipped/{name}"} & names}


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("doctor",),
        ("submit", "experiments/paper.yaml", "--cluster", "slurm/clusters/generic-8gpu.yaml", "--dry-run"),
        ("patch", "list", "--release", "0.19.8"),
        ("audit", "mixtral-8x7b", "--nodes", "1-4"),
    ],
    ids=lambda words: words[0],
)
def test_verbs_work_from_an_empty_folder(
    hpz: Path, outside: dict[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    run(str(hpz), *words, cwd=tmp_path, env=outside)


def test_runs_have_the_ids_that_they_have_in_a_checkout(
    hpz: Path, outside: dict[str, str], tmp_path: Path
) -> None:
    plan = ("plan", "experiments/laptop.yaml", "--json")
    here = run(sys.executable, "-m", "harness.cli", *plan, cwd=REPOSITORY)
    there = run(str(hpz), *plan, cwd=tmp_path, env=outside)
    ids = [[run["run_id"] for run in json.loads(done.stdout)] for done in (here, there)]
    assert ids[0] and ids[0] == ids[1]


def test_a_race_is_found_in_a_script(hpz: Path, outside: dict[str, str], tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "experiments" / "planted.py", tmp_path / "train.py")
    words = [str(hpz), "race", "--script", "train.py", "--ranks", "1", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=outside, check=False)
    (file,) = tmp_path.glob("results/*/races.json")
    assert json.loads(file.read_text())["races"], done.stdout + done.stderr
