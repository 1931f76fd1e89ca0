"""Public training scripts under `hpz race`, as they are: fetched, run, and docs/howto/scripts.md's table made anew.

`python -m tests.scripts [NAME ...]` fetches the repositories of tests/scripts.toml into .cache/scripts,
makes tiny models and data beside them (tests/script_data.py), and analyses three optimizer steps of each script.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "scripts"
PAGE = ROOT / "docs" / "howto" / "scripts.md"
MARK = "<!-- table -->"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "disabled"}


def table() -> tuple[dict[str, dict[str, Any]], list[dict[str, str]]]:
    content = tomllib.loads((ROOT / "tests" / "scripts.toml").read_text())
    return content["project"], content["script"]


def fetch(name: str, project: dict[str, Any]) -> Path:
    """The project's `files` (as in .gitignore) at its commit, nothing else of it; nothing is done where they are."""
    folder = CACHE / "repos" / name
    folder.mkdir(parents=True, exist_ok=True)

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout.strip()

    if not (folder / ".git").exists():
        git("init", "-q")
        git("remote", "add", "origin", project["url"])
    have = git("for-each-ref", "--format=%(objectname)", "refs/heads/fetched")
    if (
        have != project["commit"]
    ):  # a branch that is there last of all, so that a fetch that broke off is done again
        git("sparse-checkout", "set", "--no-cone", *project["files"])
        git("fetch", "-q", "--depth", "1", "--filter=blob:none", "origin", project["commit"])
        git("checkout", "-q", "--force", "FETCH_HEAD")
        git("branch", "--force", "fetched", "HEAD")
    return folder


def packages(name: str, project: dict[str, Any], python: str) -> Path:
    """A folder with what the project's scripts import beyond this project's own environment, to go on PYTHONPATH."""
    folder, wanted = CACHE / "packages" / name, project.get("packages", [])
    made = folder / "wanted.txt"
    if made.exists() and made.read_text().split() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if wanted:
        install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*install, *wanted], check=True)
    made.write_text("\n".join(wanted))
    return folder


def work_folder() -> Path:
    """Where scripts run: with models and data under the names that they look for."""
    folder, makers = CACHE / "work", (ROOT / "tests").glob("script_*.py")
    made = folder / "ds3.yaml"  # the last file to be written
    if not made.exists() or made.stat().st_mtime < max(maker.stat().st_mtime for maker in makers):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "tests.script_data", str(folder)], cwd=ROOT, check=True)
    return folder


def analyse(script: dict[str, str], folder: Path, python: str, imports: Path) -> str:
    """One row's result."""
    places = {"root": folder, "work": work_folder()}
    line = script["line"].format(**places).split()
    own = script.get("path", "").format(**places)
    paths = os.pathsep.join(filter(None, (own, str(imports), os.environ.get("PYTHONPATH"))))
    started = time.monotonic()
    words = f"race --python {python} --no-explore --json --steps 3 --timeout 900".split()
    results = str(CACHE / "results" / script["name"])
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hpz")), *words, "--results", results, "--", *line],
        cwd=places["work"],
        env={
            **os.environ,
            **OFFLINE,
            "HF_DATASETS_CACHE": str(places["work"] / "cache"),
            "PYTHONPATH": paths,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    try:
        return f"{result(json.loads(done.stdout))} | {seconds:.0f}"
    except ValueError:
        return f"refused: {(done.stderr.strip().splitlines() or ['no output'])[-1][:160]} | {seconds:.0f}"


def result(report: dict[str, Any]) -> str:
    if report["problems"]:
        return f"**fails** after {report['steps']} steps: {report['problems'][0][:160]}".replace("|", "/")
    kinds = {"race": "unordered", "freed-in-use": "freed in use", "unwritten-read": "unwritten read"}
    counts = [
        f"{n} {word}"
        for kind, word in kinds.items()
        if (n := sum(r["kind"] == kind for r in report["races"]))
    ]
    return f"{report['steps']} steps, {report['ops']:,} ops: {', '.join(counts) or 'nothing found'}"


def rows_of_page() -> dict[str, str]:
    """The table's rows as they stand, by name."""
    rows = (line for line in PAGE.read_text().splitlines() if line.startswith("| ") and line.count("|") == 7)
    return {row.split("|")[1].strip(): row for row in rows}


def shown(script: dict[str, str]) -> str:
    """The program that a line starts, as the table names it."""
    words = script["line"].replace("{root}/", "").split()
    module = words[words.index("--module") + 1] if "--module" in words else None
    return script.get("shown") or module or next(word for word in words if word.endswith(".py"))


def main(names: list[str]) -> None:
    """All scripts, or those named; rows of the others stay as the page has them."""
    projects, scripts = table()
    python = os.environ.get("SCRIPTS_PYTHON", sys.executable)
    if unknown := set(names) - {script["name"] for script in scripts}:
        raise SystemExit(f"tests/scripts.toml has no script {', '.join(sorted(unknown))}")
    for script in scripts:
        name, project = script["name"], projects[script["project"]]
        if names and name not in names:
            continue
        imports = packages(script["project"], project, python)
        found = analyse(script, fetch(script["project"], project), python, imports)
        row = f"| {name} | {script['project']} | `{shown(script)}` | {project['commit'][:8]} | {found} |"
        print(row, flush=True)
        rows = rows_of_page() | {name: row}
        head, _, _ = PAGE.read_text().partition(MARK)
        kept = [rows[script["name"]] for script in scripts if script["name"] in rows]
        PAGE.write_text("\n".join([head + MARK, "", *HEAD, *kept, ""]))


HEAD = ("| name | project | script | commit | result | seconds |", "|---|---|---|---|---|---|")


if __name__ == "__main__":
    main(sys.argv[1:])
