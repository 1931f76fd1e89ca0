"""The cluster on one machine: real limits, exact byte counts, and nothing left behind however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cluster import Cluster, Spec
from harness.cluster.cluster import _processes_of, clusters, temporary_cluster
from harness.cluster.needs import check_machine
from harness.cluster.network import shape_words
from harness.cluster.spec import DATA_INTERFACE
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from tests.slurm.conftest import wait_for

MEGABYTES = 8
AT_20MBIT = (MEGABYTES << 20) * 8 / 20e6  # seconds; a tenth at 200 Mbit/s, and a busy machine takes some
RECEIVE = """
import socket
server = socket.create_server(("10.77.0.11", 5000))
print("listening", flush=True)
peer, _ = server.accept()
while peer.recv(1 << 16): pass
"""
SEND = f"""
import socket, time
with socket.create_connection(("10.77.0.11", 5000)) as peer:
    started = time.monotonic()
    peer.sendall(bytes({MEGABYTES} << 20))
    peer.shutdown(socket.SHUT_WR)
    peer.recv(1)
print(time.monotonic() - started)
"""


def send_between_nodes(cluster: Cluster) -> tuple[float, int]:
    """Seconds and wire bytes of sending MEGABYTES from n0 to n1."""
    receiver = threading.Thread(
        target=cluster.run, args=([sys.executable, "-c", RECEIVE],), kwargs={"node": "n1"}
    )
    receiver.start()
    listens = ":1388 00000000:0000 0A"  # port 5000; what is left of an earlier connection is in another state
    wait_for(lambda: listens in cluster.run(["cat", "/proc/net/tcp"], node="n1").stdout)
    before = cluster.wire_bytes("n0")
    done = cluster.run([sys.executable, "-c", SEND], node="n0")
    receiver.join()
    return float(done.stdout), cluster.wire_bytes("n0") - before


def test_the_link_is_as_slow_as_asked_and_may_be_changed(cluster: Cluster) -> None:
    times = {}
    for link in ("20mbit", "200mbit"):
        cluster.set_link(link)
        times[link], sent = send_between_nodes(cluster)
        payload = MEGABYTES << 20
        assert sent == pytest.approx(payload * (1 + 66 / 1448), rel=0.01)
    assert times["20mbit"] > 0.9 * AT_20MBIT
    assert times["200mbit"] < AT_20MBIT


def test_a_job_may_give_its_nodes_a_faster_link_than_the_cluster_has(cluster: Cluster) -> None:
    cluster.set_link("20mbit")
    faster = ["tc", "qdisc", *shape_words(DATA_INTERFACE, "200mbit")]
    for node in ("n0", "n1"):
        cluster.run(faster, node=node, check=True)
    seconds, _ = send_between_nodes(cluster)
    assert seconds < AT_20MBIT
    cluster.set_link("200mbit")


def test_an_idle_link_carries_nothing(cluster: Cluster) -> None:
    before = cluster.wire_bytes("n0")
    cluster.run(["srun", "-N2", "true"])  # SLURM itself has a link of its own
    assert cluster.wire_bytes("n0") == before


def test_fake_gpus_are_handed_out(cluster: Cluster) -> None:
    done = cluster.run(["srun", "--gpus-per-node=3", "printenv", "CUDA_VISIBLE_DEVICES"])
    assert done.stdout.split() == ["0,1,2"]


def test_two_clusters_live_side_by_side_and_end_without_trace(cluster: Cluster) -> None:
    with temporary_cluster(Spec(nodes=1)) as other:
        assert other.run(["srun", "hostname"]).stdout.split() == ["n0"]
        assert {cluster.name, other.name} <= {running.name for running in clusters()}
        space = other.process_space
        assert _processes_of(space)
    assert not _processes_of(space) and not other.folder.exists()
    assert not Path(f"/proc/{other.keeper}").exists()  # no zombie either
    assert set(cluster.states().values()) == {"idle"}


def test_a_killed_keeper_takes_everything_with_it(cluster: Cluster) -> None:
    with temporary_cluster(Spec(nodes=1)) as other:
        other.run(["sbatch", "--wrap", "sleep 100"])
        os.kill(other.keeper, signal.SIGKILL)
        wait_for(lambda: not _processes_of(other.process_space))
        assert not other.alive()


def test_an_owned_cluster_dies_with_its_owner(cluster: Cluster) -> None:
    program = (
        "import os, signal\n"
        "from harness.cluster import Spec\n"
        "from harness.cluster.cluster import temporary_cluster\n"
        # Not called temporary, as another worker's cluster sweeps up what such ones left.
        f"with temporary_cluster(Spec(nodes=1), name='owned-{os.getpid()}') as c:\n"
        "    print(c.process_space, c.folder, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    space, folder = done.stdout.split()
    wait_for(lambda: not _processes_of(int(space)))
    assert Path(folder).exists()  # its logs; the next cluster of that name clears them
    shutil.rmtree(folder)


def test_up_down_and_again_from_the_command_line(tmp_path: Path, cluster: Cluster) -> None:
    name = f"cli-{os.getpid()}"

    def hpz(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness.cli", "cluster", *words, "--name", name]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False
        )

    try:
        assert hpz("up", "--nodes", "1", "--link", "50mbit").returncode == 0
        again = hpz("up")
        assert again.returncode == 2 and "is up already" in again.stderr
        assert hpz("link", "20mbit").returncode == 0 and Cluster.find(name).spec.link == "20mbit"
    finally:
        assert "is down" in hpz("down").stdout
    assert "was not up" in hpz("down").stdout


def test_missing_packages_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("harness.cluster.needs.ADMIN_PATH", ())
    with pytest.raises(HarnessError, match=r"apt-get install .*munge.*slurmctld"):
        check_machine()


def test_where_no_namespace_can_be_made_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cluster.needs.missing_packages", list)
    monkeypatch.setattr("harness.cluster.needs.NAMESPACES", ["--no-such-option"])
    for user, words in ((0, "--privileged"), (1000, "/etc/subuid")):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        with pytest.raises(HarnessError, match=words):
            check_machine()


def test_a_daemon_that_cannot_start_is_named(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPZ_CLUSTERS", str(tmp_path / ("long" * 30)))  # sockets may have 107 bytes at most
    with pytest.raises(HarnessError, match="did not come up: munged"), temporary_cluster(Spec(nodes=1)):
        pass


@pytest.mark.parametrize("name", ["a/b", "..", "", "x" * 41, "a b"])
def test_names_that_are_no_folder_are_refused(name: str) -> None:
    with pytest.raises(HarnessError, match="--name"):
        Cluster.find(name)


def test_clusters_are_not_kept_in_another_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPZ_CLUSTERS", str(tmp_path))
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(HarnessError, match="belongs to another user; set HPZ_CLUSTERS to a folder of yours"):
        Cluster.find("mine")


def test_a_node_that_is_not_there_is_named_with_those_that_are(cluster: Cluster) -> None:
    with pytest.raises(HarnessError, match="has no node 'n7'; it has n0, n1"):
        cluster.run(["true"], node="n7")


def test_a_cluster_that_is_not_up_is_named() -> None:
    with pytest.raises(HarnessError, match="hpz cluster up --name nobody"):
        Cluster.find("nobody")


def test_processes_are_told_from_later_ones_with_the_same_number(cluster: Cluster) -> None:
    assert cluster.alive() and not replace(cluster, keeper_started=1).alive()
