"""What things cost: collectives by formula, kernels by roofline, profiles from files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.clock.collectives import Layout, collective, layout
from harness.device.counters import link_bytes
from harness.device.observe import Collective
from harness.hardware import cluster, find
from harness.hardware.profiles import FOLDER, KINDS, profiles, read_profiles
from harness.simulate import trace as trace_module
from harness.simulate.costs import LIMITS, costs, describe, total_bytes
from harness.simulate.trace import Kind, Row, load, save
from harness.system.errors import HarnessError
from tests.simulated_help import A100, gather, op, program, with_changes

OPS = ("all_gather", "reduce_scatter", "all_reduce", "broadcast")


def world(nodes: int, per_node: int = 8) -> Layout:
    return layout(tuple(range(nodes * per_node)), per_node)


@given(
    st.sampled_from(OPS[:2]),
    st.integers(1, 10**9),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([2, 4, 8, 16]),
)
def test_ring_bytes_agree_with_the_byte_audit(op: str, payload: int, nodes: int, hpz: int) -> None:
    ranks = tuple(range(nodes * 8))
    for group in (ranks, ranks[: min(hpz, len(ranks))]):
        wire = collective(op, payload, layout(group, 8), A100)
        inside, outside = link_bytes({Collective(op, group, payload): 1}, nodes, 8)
        assert wire.nic_bytes == pytest.approx(outside, abs=1) or layout(group, 8).nodes == 1
        if layout(group, 8).nodes == 1:
            assert wire.nic_bytes == outside == 0
            assert 8 * wire.nvlink_bytes == pytest.approx(inside / nodes * nodes, abs=8)


@given(
    st.sampled_from(OPS),
    st.integers(1, 10**10),
    st.sampled_from([(1, 2), (2, 4), (4, 8), (8, 64), (64, 128)]),
)
def test_more_ranks_never_move_fewer_bytes_in_all(op: str, payload: int, nodes: tuple[int, int]) -> None:
    def everything(count: int) -> float:
        wire = collective(op, payload, world(count), A100)
        return count * (wire.nic_bytes + 8 * wire.nvlink_bytes)

    fewer, more = nodes
    assert everything(fewer) <= everything(more) * (1 + 1e-12)


@given(st.sampled_from(OPS), st.integers(1, 10**10), st.sampled_from([1, 2, 16]))
def test_a_collective_is_never_faster_than_its_bytes_allow(op: str, payload: int, nodes: int) -> None:
    wire = collective(op, payload, world(nodes), A100)
    assert wire.seconds >= wire.nic_bytes / A100.network.bandwidth
    assert wire.seconds >= wire.latency >= 0


def test_all_reduce_is_a_reduce_scatter_and_an_all_gather() -> None:
    both = sum(collective(op, 10**9, world(4), A100).seconds for op in ("all_gather", "reduce_scatter"))
    assert collective("all_reduce", 10**9, world(4), A100).seconds == pytest.approx(both, rel=0.01)


def test_over_gloo_a_reduce_scatter_travels_as_an_all_reduce() -> None:
    gloo = with_changes("network", algorithm="gloo")
    scatter, whole = (collective(op, 10**9, world(2), gloo) for op in ("reduce_scatter", "all_reduce"))
    assert (
        scatter.nic_bytes == whole.nic_bytes == 2 * collective("all_gather", 10**9, world(2), gloo).nic_bytes
    )


def test_small_all_reduces_take_the_tree() -> None:
    ring_latency = 2 * (world(128).size - 1) * A100.gpu.nvlink_latency
    assert collective("all_reduce", 4, world(128), A100).seconds < ring_latency


def test_a_group_of_one_moves_nothing() -> None:
    wire = collective("all_gather", 10**9, layout((3,), 8), A100)
    assert (wire.nic_bytes, wire.nvlink_bytes) == (0.0, 0.0)


def test_groups_beside_each_other_share_the_nic() -> None:
    """Eight groups of one rank a node, as in a hierarchical exchange, leave each an eighth of the NIC."""
    striped = layout(tuple(range(0, 64, 8)), 8)
    assert striped.siblings == 8
    wire = collective("all_gather", 10**9, striped, A100)
    alone = collective("all_gather", 10**9, striped._replace(siblings=1), A100)
    assert wire.seconds == pytest.approx(8 * alone.seconds, rel=0.05)


def test_going_between_nodes_first_saves_latency_at_scale() -> None:
    hierarchical = with_changes("network", algorithm="hierarchical")
    ring, staged = (collective("all_gather", 10**4, world(128), on) for on in (A100, hierarchical))
    assert staged.seconds < ring.seconds


def test_all_to_all_sends_everything_but_its_own_part() -> None:
    wire = collective("all_to_all", 16 * 10**6, world(2), A100)
    assert wire.nvlink_bytes == 7 * 10**6
    assert wire.nic_bytes == 8 * 8 * 10**6


def test_a_kernel_takes_the_longer_of_arithmetic_and_memory() -> None:
    rows = [
        op(milliseconds=2),
        Row(Kind.OP, stream=0, name=0, read=10**9),
        Row(Kind.TRANSFER, stream=0, read=10**9),
    ]
    arithmetic, memory, transfer = costs(program(rows), A100).solo
    assert arithmetic == pytest.approx(2e-3)
    assert memory == pytest.approx(10**9 / (A100.gpu.memory_bandwidth * A100.gpu.memory_efficiency), rel=0.01)
    assert transfer == pytest.approx(10**9 / A100.gpu.pcie_bandwidth, rel=0.01)


def test_the_host_pays_for_what_it_issues_and_for_views() -> None:
    rows = [op()._replace(views=10), gather(), Row(Kind.RECORD, stream=0, event=1)]
    host = A100.host
    expected = [
        host.launch_seconds + 10 * host.view_seconds,
        host.collective_seconds,
        host.event_seconds,
    ]
    assert costs(program(rows), A100).host.tolist() == pytest.approx(expected)


def test_a_collective_knows_what_bounds_it() -> None:
    rows = [gather(), gather(group=1), gather(payload=100)]
    limits = [LIMITS[each] for each in costs(program(rows), A100).limit]
    assert limits == ["nic", "nvlink", "latency"]
    assert total_bytes(program(rows[:2]), A100) == pytest.approx((10**8 * 15 / 16, 10**8 * (15 / 16 + 7 / 8)))
    assert describe(program(rows), 0) == {"name": "all_gather", "bytes": 10**8, "flops": 0.0, "ranks": 16}


def test_a_look_up_reads_only_the_rows_it_returns() -> None:
    table = Row(Kind.OP, stream=0, name=0, read=10**9, written=10**6)
    trace = program([table])
    named = type(trace)(**{**vars(trace), "names": ("embedding", "all_gather")})
    assert costs(named, A100).solo[0] < costs(trace, A100).solo[0] / 100


def test_every_shipped_profile_is_whole_and_names_its_source() -> None:
    for kind in KINDS:
        assert all(profile.source for profile in profiles(kind).values())
    assert {"a100-sxm-80gb", "v100-sxm-32gb", "h100-sxm-80gb"} <= profiles("gpus").keys()
    rates = {name: profile.bits_per_second / 1e9 for name, profile in profiles("networks").items()}
    assert {12.5, 25, 100, 200, 400} <= set(rates.values())


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(HarnessError, match=r"'a100' is not among gpus; .*a100-sxm-40gb"):
        find("gpus", "a100")


def test_a_broken_profile_file_is_named_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "networks.yaml"
    file.write_text("mine: {source: here, bits_per_second: -1, efficiency: 1, latency: 0}")
    with pytest.raises(HarnessError, match=r"networks\.yaml: bits_per_second: .*greater than 0"):
        read_profiles(file, "networks")
    with pytest.raises(HarnessError, match=r"nowhere\.yaml: cannot be read"):
        read_profiles(tmp_path / "nowhere.yaml", "networks")
    assert (FOLDER / "gpus.yaml").exists()


def test_contention_can_be_left_out() -> None:
    assert cluster("v100-sxm-32gb", "ethernet-25gbps", "server").contention
    assert not A100.contention
    assert with_changes("network", latency=0.0).network.latency == 0.0


def test_a_trace_of_another_format_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "FORMAT", 99)
    save(program([op()]), tmp_path / "t.npz")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"t\.npz: trace format 99, not 2"):
        load(tmp_path / "t.npz")


def test_a_group_of_uneven_ranks_is_not_saved(tmp_path: Path) -> None:
    uneven = dataclasses.replace(program([op()]), groups=((0, 1, 3),))
    with pytest.raises(ValueError, match=r"ranks \(0, 1, 3\) are not evenly spaced"):
        save(uneven, tmp_path / "t.npz")


def test_a_trace_survives_its_file(tmp_path: Path) -> None:
    trace = program([op(), gather(), Row(Kind.SYNC_ALL, site=0)])
    save(trace, tmp_path / "t.npz")
    again = load(tmp_path / "t.npz")
    assert list(again.rows()) == list(trace.rows())
    assert (again.names, again.sites, again.groups, again.streams) == (
        trace.names,
        trace.sites,
        trace.groups,
        trace.streams,
    )
    assert again.about == trace.about
    assert again.tokens == 1000
