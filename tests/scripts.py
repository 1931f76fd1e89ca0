"""Public training scripts under `hpz race`, as they are: fetched, run, and docs/howto/scripts.md's table made anew.

`python -m tests.scripts [NAME ...]` fetches the repositories of tests/scripts.toml into .cache/scripts,
makes tiny models and data beside them (tests/script_data.py), and analyses three optimizer steps of each script.
"""

from __future__ import annotations

import json
import os
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


def table() -> tuple[dict[str, dict[str, str]], list[dict[str, str]]]:
    content = tomllib.loads((ROOT / "tests" / "scripts.toml").read_text())
    return content["project"], content["script"]


def fetch(name: str, project: dict[str, str]) -> Path:
    """The project at its commit; nothing is done where it is there."""
    folder = CACHE / "repos" / name
    if not (folder / ".git").exists():
        folder.mkdir(parents=True, exist_ok=True)
        git = ("git", "-C", str(folder))
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "fetch", "-q", "--depth", "1", project["url"], project["commit"]], check=True)
        subprocess.run([*git, "checkout", "-q", "FETCH_HEAD"], check=True)
    return folder


def work_folder() -> Path:
    """Where scripts run: with models and data under the names that they look for."""
    folder = CACHE / "work"
    if not (folder / "ds.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(ROOT / "tests" / "script_data.py")], cwd=folder, check=True)
    return folder


def analyse(script: dict[str, str], folder: Path, python: str) -> str:
    """One row's result."""
    line = script["line"].format(root=folder).split()
    paths = os.pathsep.join(
        filter(None, (script.get("path", "").format(root=folder), os.environ.get("PYTHONPATH")))
    )
    started = time.monotonic()
    words = f"race --python {python} --no-explore --json --steps 3 --timeout 900".split()
    results = str(CACHE / "results" / script["name"])
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hpz")), *words, "--results", results, "--", *line],
        cwd=work_folder(),
        env={**os.environ, **OFFLINE, "PYTHONPATH": paths},
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


def main(names: list[str]) -> None:
    """All scripts, or those named; the table is written when all were run."""
    projects, scripts = table()
    python = os.environ.get("SCRIPTS_PYTHON", sys.executable)
    lines = ["| project | script | commit | result | seconds |", "|---|---|---|---|---|"]
    for script in scripts:
        if names and script["name"] not in names:
            continue
        project = projects[script["project"]]
        found = analyse(script, fetch(script["project"], project), python)
        shown = next(word for word in script["line"].split() if "{root}" in word or word.count(".") > 1)
        shown = shown.replace("{root}/", "")
        lines.append(f"| {script['project']} | `{shown}` | {project['commit'][:8]} | {found} |")
        print(lines[-1], flush=True)
    if not names:
        head, _, _ = PAGE.read_text().partition(MARK)
        PAGE.write_text("\n".join([head + MARK, "", *lines, ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
