"""A study from a laptop: everything is said here, and done where ssh leads to, with an sshd of this machine's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.launch.slurm.site import Remote, Site, remote
from harness.record import RunDirectory
from harness.study import load_study
from harness.system.errors import HarnessError
from harness.system.ports import free_port
from tests.slurm.conftest import Submitter

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
NEEDED = {"openssh-server": SSHD, "openssh-client": shutil.which("ssh"), "rsync": shutil.which("rsync")}
MISSING = [package for package, program in NEEDED.items() if program is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"packages that are not installed: {', '.join(MISSING)}"
)


@dataclass(frozen=True)
class Server:
    """An sshd that only this test can enter."""

    config: Path  # of the client

    def site(self, folder: Path) -> Site:
        return Site(
            ssh="laboratory", folder=str(folder), python=sys.executable, options=("-F", str(self.config))
        )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder, port = tmp_path / "ssh", free_port()
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where root's sshd confines a part of itself
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    kept = [
        f"{name}={os.environ[name]}"
        for name in ("XDG_CACHE_HOME", "HPZ_CLUSTERS", "PATH")
        if name in os.environ
    ]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nSetEnv {' '.join(kept)}\n"
    )
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(
        f"Host laboratory\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known\n  BatchMode yes\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        await_answer(process, folder)
        yield Server(folder / "config")
    finally:
        process.kill()
        process.wait()


def await_answer(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 30
    while subprocess.run(
        ["ssh", "-F", folder / "config", "laboratory", "true"], capture_output=True, check=False
    ).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.skip(f"sshd does not run here: {(folder / 'log').read_text().strip()}")
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_submit_watch_status_logs_and_collect_work_from_here(
    server: Server,
    submitter: Submitter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    laptop, there = tmp_path / "laptop", tmp_path / "site"
    laptop.mkdir()
    monkeypatch.chdir(laptop)
    profile = submitter.profile(site=server.site(there).model_dump())
    Path("profile.yaml").write_text(json.dumps(profile.model_dump(mode="json", exclude_defaults=True)))
    file = submitter.study_file()

    def hpz(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["hpz", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said, errors = capfd.readouterr()
        assert not ended.value.code, errors
        return said

    assert "Look on with: hpz watch results/tiny" in hpz("submit", str(file), "--cluster", "./profile.yaml")
    assert hpz("watch", "results/tiny").count("done  4/4") == 2
    assert json.loads(hpz("status", "--json", str(file)))["counts"] == {"done": 2}
    run = load_study(file).runs[0].run_id
    assert "rank 0 of 4 on node 0" in hpz("logs", run, "--rank", "0")
    assert not Path("results/tiny/runs").exists()  # all that was there

    assert json.loads(hpz("collect", "results/tiny", "--json"))["runs_done"] == 2
    place = remote(Path("results/tiny"))
    ran = json.loads(RunDirectory(f"results/tiny/runs/{run}").run_file.read_text())
    assert place is not None and ran["code"] == place.code
    assert (there / "results" / "tiny" / "code" / place.code).is_dir()


def test_a_site_that_does_not_answer_is_told_with_what_to_try(server: Server, tmp_path: Path) -> None:
    nobody = Site(ssh="nobody@laboratory", folder=str(tmp_path), options=("-F", str(server.config)))
    with pytest.raises(
        HarnessError, match=r"site\.ssh: nobody@laboratory cannot be reached \(.*\); try: ssh nobody"
    ):
        nobody.run(["true"], quiet=True)
    with pytest.raises(HarnessError, match=r"site\.folder: .*/results cannot be made on nobody@laboratory"):
        nobody.make_folder("results")


def test_what_fails_there_fails_here(server: Server, tmp_path: Path) -> None:
    place = Remote(site=server.site(tmp_path), results="results/x", code="0123")
    assert place.site.run(["sh", "-c", "exit 3"]) == 3
    with pytest.raises(HarnessError, match="site: rsync with laboratory failed"):
        place.fetch(tmp_path / "here")
