"""A cluster that is reached by ssh: the code and the study go there by rsync, verbs are said there, results come back.

A site's folder holds code/ (snapshots, by digest), profiles/ and results/, and needs an environment with this project's
dependencies. Only plain ssh and rsync are used, with what the user's ssh configuration says of the host.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import yaml
from pydantic import Field, field_validator

from harness.launch.slurm.snapshot import take_snapshot
from harness.study import Frozen
from harness.system.child import last_words
from harness.system.errors import HarnessError
from harness.system.whole_file import write_json

RECORD = "site.json"  # in a results folder here: where its runs are
UNREACHABLE = 255  # ssh's own exit code
STAYS_THERE = ("/code/", "checkpoint/", ".*", "*.tmp")


class Site(Frozen):
    """How to reach a cluster from here."""

    ssh: str = Field(pattern=r"^[^\s-][^\s:]*$")  # the host as ssh knows it: cluster, me@login.cluster.org
    folder: str  # there, absolute
    python: str = ".venv/bin/python"  # there, from that folder
    options: tuple[str, ...] = ()  # of ssh, as -p2222; better in ~/.ssh/config

    @field_validator("folder")
    @classmethod
    def _folder_is_absolute(cls, value: str) -> str:
        if not value.startswith("/") or not value.isprintable():
            raise ValueError("must be an absolute path on the site, as /scratch/me/hpz")
        return value.rstrip("/") or "/"

    def run(self, words: Sequence[str], *, quiet: bool = False, terminal: bool = False) -> int:
        """Run a command in the site's folder; what it says is heard here unless `quiet`. Its exit code.

        Raises HarnessError where the site cannot be reached.
        """
        there = f"cd {shlex.quote(self.folder)} && {shlex.join(words)}"
        command = ["ssh", *self.options, *(["-t"] if terminal else []), self.ssh, there]
        done = subprocess.run(command, check=False, text=True, stderr=subprocess.PIPE if quiet else None)
        if done.returncode == UNREACHABLE:
            why = f" ({last_words(done.stderr)})" if quiet else ""
            raise HarnessError(f"site.ssh: {self.ssh} cannot be reached{why}; try: ssh {self.ssh} true")
        return done.returncode

    def hpz(self, code: str, words: Sequence[str], terminal: bool = False) -> int:
        """Say `hpz WORDS` there, with the code of that digest; the exit code."""
        path = f"PYTHONPATH={self.folder}/code/{code}"
        return self.run(
            ["env", path, "PYTHONSAFEPATH=1", self.python, "-m", "harness.cli", *words], terminal=terminal
        )

    def send(self, what: Path, where: str) -> None:
        """Copy a folder's content, or a file, into a folder there, which is made. Raises HarnessError."""
        source = f"{what}/" if what.is_dir() else str(what)
        self.make_folder(where)
        self._rsync([source, f"{self.ssh}:{self.folder}/{where}/"])

    def fetch(self, where: str, into: Path) -> None:
        """Bring a folder's content here, without checkpoints and code. Raises HarnessError."""
        left = [f"--exclude={pattern}" for pattern in STAYS_THERE]
        self._rsync([*left, f"{self.ssh}:{self.folder}/{where}/", str(into)])

    def make_folder(self, where: str) -> None:
        """Raises HarnessError where the site's folder, or one in it, cannot be made."""
        script = f"mkdir -p {shlex.quote(self.folder)}/{shlex.quote(where)}"
        done = subprocess.run(
            ["ssh", *self.options, self.ssh, script], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise HarnessError(
                f"site.folder: {self.folder}/{where} cannot be made on {self.ssh} ({last_words(done.stderr)}); try: "
                f"ssh {self.ssh} true, or name another folder"
            )

    def _rsync(self, words: list[str]) -> None:
        if shutil.which("rsync") is None:
            raise HarnessError("site: rsync is not installed here, and is needed here and there; install it")
        command = ["rsync", "--archive", "--compress", f"--rsh={shlex.join(['ssh', *self.options])}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HarnessError(
                f"site: rsync with {self.ssh} failed: {last_words(done.stderr)}; both sides need it"
            )


class Remote(Frozen):
    """A results folder here whose runs are on a site."""

    site: Site
    results: str  # there, from the site's folder
    code: str  # digest of the snapshot that was sent last

    def hpz(self, words: Sequence[str], terminal: bool = False) -> int:
        return self.site.hpz(self.code, words, terminal)

    def fetch(self, results: Path) -> None:
        """Bring what the runs have written so far."""
        self.site.fetch(self.results, results)


def remote(results: Path) -> Remote | None:
    """Where the runs of a results folder are; None: here. Raises HarnessError for a record that is none."""
    file = results / RECORD
    try:
        return Remote.model_validate_json(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise HarnessError(f"{file}: not a record of a site; delete it and submit again") from error


def push(site: Site, results: Path, name: str, profile: dict[str, object]) -> tuple[Remote, str]:
    """Send code, study and profile of the study whose results folder this is; what `hpz submit` needs there.

    Returns where its runs will be and the profile's path there. Raises HarnessError.
    """
    code = take_snapshot(results)
    place = Remote(site=site, results=f"results/{PurePosixPath(name).name}", code=code.digest)
    site.send(code.folder, f"code/{code.digest}")
    site.send(results / "study.yaml", place.results)
    sent = results / "profile.yaml"
    sent.write_text(yaml.safe_dump(profile, sort_keys=False))
    site.send(sent, place.results)
    write_json(results / RECORD, json.loads(place.model_dump_json()))
    return place, f"{place.results}/{sent.name}"
