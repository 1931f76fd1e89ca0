"""Turns, places and deaths of ranks, from SLURM's words alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.cluster.spec import Spec, hosts_file, link_rate, slurm_conf
from harness.launch.slurm.ended import parse_exits, parse_ranks
from harness.launch.slurm.rank import Place, check_placement, tasks_on_nodes
from harness.launch.slurm.turns import block_end, turns
from harness.record import RunDirectory
from harness.study import Shape
from harness.system.errors import HarnessError
from harness.system.interface import sent_bytes
from harness.workload.gloo_bytes import wire_bytes
from harness.workload.wire import WireMeter


def test_the_order_turns_round_from_block_to_block() -> None:
    a, b = RunDirectory("a"), RunDirectory("b")
    assert [[d.path.name for d in order] for _, order in turns([a, b], 3)] == [
        ["a", "b"],
        ["b", "a"],
        ["a", "b"],
    ]


@pytest.mark.parametrize(("steps", "blocks"), [(10, 2), (7, 3), (3, 3), (100, 7)])
def test_blocks_cover_every_step_once(steps: int, blocks: int) -> None:
    ends = [block_end(steps, block, blocks) for block in range(blocks)]
    assert ends == sorted(set(ends)) and ends[-1] == steps and ends[0] > 0


def test_dead_ranks_are_read_from_sruns_words() -> None:
    words = [
        "srun: error: n1: task 3: Killed",
        "srun: error: n0: tasks 0-1: Exited with exit code 2",
        "srun: something else: task 2",
    ]
    exits = parse_exits(words, 4, 137)
    assert (exits[3].signal, exits[0].code, exits[1].code) == ("Killed", 2, 2)
    assert exits[2].code is None and exits[2].reason == "taken down with the run"


def test_lists_of_ranks_are_read() -> None:
    assert parse_ranks("0,2-4,9") == [0, 2, 3, 4, 9]


def test_tasks_of_nodes_are_read() -> None:
    assert tasks_on_nodes("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(HarnessError, match="not of the form"):
        tasks_on_nodes("two")


VARIABLES = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def test_a_rank_takes_its_place_from_srun() -> None:
    assert Place.from_slurm(VARIABLES).variables() == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_SIZE": "2",
    }


def test_a_rank_outside_srun_says_so() -> None:
    with pytest.raises(HarnessError, match="SLURM_NODEID is not set"):
        Place.from_slurm({})


def place(changes: Mapping[str, str]) -> Place:
    return Place.from_slurm({**VARIABLES, **changes})


HPZ = Shape(nodes=2, ranks_per_node=2, hpz=2)


def test_a_group_inside_its_node_is_welcome() -> None:
    check_placement(place({}), HPZ, across_nodes=False)


def test_a_group_across_nodes_is_refused() -> None:
    with pytest.raises(HarnessError, match="--distribution=block"):
        check_placement(place({"SLURM_NODEID": "0", "SLURM_LOCALID": "1"}), HPZ, across_nodes=False)


def test_a_group_across_nodes_may_be_meant() -> None:
    away = place({"SLURM_NODEID": "0"})
    check_placement(away, HPZ, across_nodes=True)
    check_placement(away, Shape(nodes=2, ranks_per_node=2, hpz=4), across_nodes=False)
    check_placement(away, Shape(nodes=2, ranks_per_node=2), across_nodes=False)


def test_another_number_of_ranks_is_refused() -> None:
    with pytest.raises(HarnessError, match="srun started 4 ranks"):
        check_placement(place({}), Shape(nodes=1, ranks_per_node=2), across_nodes=False)


class Gather:
    """A collective among ranks of two nodes of two."""

    def __init__(self, op: str, nbytes: int, ranks: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        self.op, self.nbytes, self.ranks = op, nbytes, ranks


# What the interface counter of the busiest node said (2 nodes × 2 ranks, 50 Mbit/s).
MEASURED = [
    ("all_gather", 4096, 5480),
    ("all_gather", 65536, 54919),
    ("all_gather", 8388608, 6721242),
    ("reduce_scatter", 65536, 108822),
    ("reduce_scatter", 8388608, 13443999),
    ("all_reduce", 4096, 11023),
    ("all_reduce", 1048576, 1682211),
]


@pytest.mark.parametrize(("op", "nbytes", "counted"), MEASURED)
def test_predicted_bytes_are_within_three_percent_of_the_counter(op: str, nbytes: int, counted: int) -> None:
    assert wire_bytes({Gather(op, nbytes): 1}, 2, 2) == pytest.approx(counted, rel=0.03)


def test_a_group_inside_a_node_sends_nothing_out() -> None:
    assert wire_bytes({Gather("all_gather", 1 << 20, (0, 1)): 7}, 2, 2) == 0


def test_an_operation_that_was_not_measured_is_not_guessed() -> None:
    with pytest.raises(KeyError):
        wire_bytes({Gather("all_to_all", 64): 1}, 2, 2)


def test_the_interface_counter_is_read() -> None:
    text = "Inter-| Receive\n face |bytes\n    lo: 1 0 0 0 0 0 0 0 2 0\n  eth0: 5 0 0 0 0 0 0 0 4321 7\n"
    assert sent_bytes(text, "eth0") == 4321


def test_without_an_interface_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPZ_WIRE_INTERFACE", raising=False)
    meter = WireMeter(gloo=True)
    meter.start()
    assert meter.stop({}, 2, 2) == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": 0}, "1 to 64 nodes"),
        ({"cpus": 0}, "1 to 256 CPUs"),
        ({"gpus": 9}, "0 to 8 fake GPUs"),
        ({"link": "fast"}, "not a rate"),
        ({"link": "0mbit"}, "not a rate"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        Spec(**values)  # type: ignore[arg-type]


def test_names_of_nodes_lead_to_the_limited_link() -> None:
    assert "10.77.0.11 n1" in hosts_file(Spec(nodes=2))
    assert "NodeName=n1 NodeAddr=10.78.0.11" in slurm_conf(Spec(nodes=2), Path("/x"))
    assert link_rate("200mbit") == 200e6
