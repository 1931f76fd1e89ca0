"""The corners of what is known of a cluster, and what must hold from one to another."""

from __future__ import annotations

import pytest

from harness.hardware import cluster
from harness.hardware.profiles import profiles
from harness.simulate.corners import CORNERS, Corner, at_corner
from harness.simulate.engine import simulate
from tests.simulated_help import A100, gather, op, program, record, wait

FAST, SLOW = Corner(True, True, True), Corner(False, False, False)
NETWORK = "infiniband-100gbps"


def test_a_step_is_fastest_where_everything_is_and_slowest_where_nothing_is() -> None:
    step = program([op(), record(1), gather(), wait(2), op()])
    fast, slow, stated = (
        simulate(step, on).seconds
        for on in (at_corner(A100, NETWORK, FAST), at_corner(A100, NETWORK, SLOW), A100)
    )
    assert fast < stated < slow


@pytest.mark.parametrize("network", profiles("networks"))
def test_no_share_of_a_bandwidth_exceeds_one_at_any_corner(network: str) -> None:
    on = cluster("a100-sxm-80gb", network, "server")
    for corner in (FAST, *CORNERS.values()):
        moved = at_corner(on, network, corner)
        shares = (moved.gpu.matmul_efficiency, moved.gpu.nvlink_efficiency, moved.network.efficiency)
        assert all(0 < share <= 1 for share in shares)


def test_each_kind_of_term_is_slow_at_two_corners_of_four_and_no_two_kinds_always_together() -> None:
    for kind in range(3):
        assert sum(corner[kind] for corner in CORNERS.values()) == 2
    assert len({corner[:2] for corner in CORNERS.values()}) == 4
