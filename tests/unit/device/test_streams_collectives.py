"""Collectives on the virtual device, in a world of one: deferral, order, records and refusals; and ring traffic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from harness.device.collectives import Backend
from harness.device.counters import Counters, link_bytes, step_traffic
from harness.device.errors import DeviceError
from harness.device.observe import Collective
from harness.device.policies import SideFirst
from harness.device.streams import Stream
from harness.device.virtual import VirtualDevice
from harness.device.virtual_collectives import VirtualBackend
from harness.study import Shape
from tests.gloo_world import world_of_one

DEVICE = "cpu:0"


@pytest.fixture
def world() -> Iterator[None]:
    with world_of_one():
        yield


@pytest.fixture
def device(world: None) -> Iterator[VirtualDevice]:
    device = VirtualDevice(SideFirst())
    device.use_policy()
    with device.activate():
        yield device


class Inner:
    """torch.distributed with the keyword names of DeepSpeed's backend."""

    def all_reduce(self, tensor: torch.Tensor, op: Any, group: Any, async_op: bool) -> Any:
        return dist.all_reduce(tensor, op=op, group=group, async_op=async_op)

    def all_gather(self, outputs: Any, tensor: torch.Tensor, group: Any, async_op: bool) -> Any:
        return dist.all_gather(outputs, tensor, group=group, async_op=async_op)

    def broadcast(self, tensor: torch.Tensor, src: int, group: Any, async_op: bool) -> Any:
        return dist.broadcast(tensor, src, group=group, async_op=async_op)

    def barrier(self) -> None:
        dist.barrier()

    def isend(self, tensor: torch.Tensor, dst: int) -> None:
        raise AssertionError("must not be reached")


def test_a_collective_waits_for_the_issuing_stream_and_not_the_host(device: VirtualDevice) -> None:
    backend = VirtualBackend(Inner(), device.machine)
    x = torch.ones(4, device=DEVICE) * 2
    work = backend.all_reduce(x, async_op=True)
    assert device.machine.default.done == 0
    assert not work.is_completed()
    work.wait()
    assert device.machine.default.done == 0
    assert device.counters().host_syncs == {}
    assert x.tolist() == [2] * 4


def test_without_its_wait_the_result_is_not_there(device: VirtualDevice) -> None:
    backend = VirtualBackend(Inner(), device.machine)
    x, outputs = torch.ones(4, device=DEVICE), [torch.empty(4, device=DEVICE)]
    device.machine.synchronize()
    work = backend.all_gather(outputs, x, async_op=True)
    assert outputs[0].isnan().all()
    work.wait()
    assert outputs[0].tolist() == [1] * 4


def test_a_collective_on_a_side_stream_may_run_before_the_main_stream(device: VirtualDevice) -> None:
    backend = VirtualBackend(Inner(), device.machine)
    x, outputs = torch.empty(4, device=DEVICE), [torch.empty(4, device=DEVICE)]
    x.fill_(1)
    with Stream():
        backend.all_gather(outputs, x)
    device.synchronize()
    assert outputs[0].isnan().all()


def test_collectives_of_a_group_follow_one_another(device: VirtualDevice) -> None:
    backend = VirtualBackend(Inner(), device.machine)
    x, outputs = torch.ones(4, device=DEVICE), [torch.empty(4, device=DEVICE)]
    device.machine.synchronize()
    backend.all_reduce(x, async_op=True)
    backend.all_gather(outputs, x)
    assert outputs[0].tolist() == [1] * 4


def test_host_tensors_are_reduced_at_once(device: VirtualDevice) -> None:
    backend = VirtualBackend(Inner(), device.machine)
    x = torch.ones(4)
    backend.all_reduce(x)
    backend.barrier()
    assert device.counters().host_syncs_by_reason() == {"barrier": 1}


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (2, 2)])
def test_a_gather_counts_elements_as_nccl_does_and_not_shapes(
    device: VirtualDevice, shape: tuple[int, ...]
) -> None:
    x, outputs = torch.arange(4.0, device=DEVICE), [torch.empty(shape, device=DEVICE)]
    dist.all_gather(outputs, x)
    assert outputs[0].shape == shape
    assert outputs[0].flatten().tolist() == [0, 1, 2, 3]


def test_a_reduce_scatter_of_a_matrix_is_read_row_by_row(device: VirtualDevice) -> None:
    x, output = torch.arange(4.0, device=DEVICE).view(2, 2).t().contiguous(), torch.empty(4, device=DEVICE)
    dist.reduce_scatter_tensor(output, x)
    assert output.tolist() == [0, 2, 1, 3]


def test_a_collective_around_the_backend_is_deferred_as_those_of_the_backend(device: VirtualDevice) -> None:
    x = torch.ones(2, device=DEVICE)
    work = dist.all_reduce(x, async_op=True)
    work.wait()
    assert x.tolist() == [1, 1]
    assert [call.op for call in device.machine.collectives.counted] == ["all_reduce"]


def test_a_call_that_the_device_does_not_know_is_refused(device: VirtualDevice) -> None:
    backend = VirtualBackend(Inner(), device.machine)
    with pytest.raises(DeviceError, match="some of its tensors are on the device"):
        backend.all_gather([torch.empty(2)], torch.ones(2, device=DEVICE))
    with pytest.raises(DeviceError, match="get_future"):
        backend.all_reduce(torch.ones(2, device=DEVICE), async_op=True).get_future()


def test_a_failure_names_the_collective(device: VirtualDevice) -> None:
    class Broken(Inner):
        def all_reduce(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("timed out")

    backend = VirtualBackend(Broken(), device.machine)
    with pytest.raises(DeviceError, match=r"all_reduce of 8 bytes among ranks \[0\] failed \(timed out\)"):
        backend.all_reduce(torch.ones(2, device=DEVICE))
        device.synchronize()


def test_every_collective_is_counted_on_plain_cpu_too(world: None) -> None:
    backend = Backend(Inner())
    for _ in range(3):
        backend.all_reduce(torch.ones(2))
    backend.broadcast(torch.ones(5), 0)
    assert backend.counted == {Collective("all_reduce", (0,), 8): 3, Collective("broadcast", (0,), 20): 1}


# ---- traffic

WORLD, HPZ = (0, 1, 2, 3), (0, 1)


def test_an_all_gather_sends_all_but_its_own_share_around_the_ring() -> None:
    # 4 edges of 300 bytes, 2 of them between the nodes; each node has one of either kind.
    assert link_bytes({Collective("all_gather", WORLD, 400): 1}, 2, 2) == (300, 300)


def test_an_all_reduce_costs_twice_as_much() -> None:
    assert link_bytes({Collective("all_reduce", WORLD, 400): 1}, 2, 2) == (600, 600)


def test_groups_inside_a_node_send_nothing_outside_and_siblings_count() -> None:
    assert link_bytes({Collective("all_gather", HPZ, 400): 3}, 2, 2) == (3 * 2 * 200, 0)
    assert link_bytes({Collective("all_gather", HPZ, 400): 1}, 1, 4) == (2 * 2 * 200, 0)


def test_groups_across_nodes_send_nothing_inside() -> None:
    assert link_bytes({Collective("reduce_scatter", (0, 2), 400): 1}, 2, 2) == (0, 2 * 200)


def test_an_all_to_all_sends_directly() -> None:
    # Each of a node's 2 ranks sends 100 bytes to each of the 3 others, of which 1 is on the same node.
    assert link_bytes({Collective("all_to_all", WORLD, 400): 1}, 2, 2) == (200, 400)


def test_a_world_of_one_sends_nothing() -> None:
    assert link_bytes({Collective("all_gather", (0,), 400): 1}, 1, 1) == (0, 0)


def test_secondary_gathers_are_the_all_gathers_in_groups_of_hpz() -> None:
    counters = Counters(
        host_syncs={("event", "a.py:1"): 2, ("stream", "b.py:2"): 1},
        collectives={
            Collective("all_gather", WORLD, 8): 5,
            Collective("all_gather", HPZ, 8, group=1): 3,
            Collective("reduce_scatter", HPZ, 8, group=1): 4,
        },
    )
    traffic = step_traffic(counters, Shape(nodes=2, ranks_per_node=2, hpz=2))
    assert (traffic.secondary_gathers, traffic.host_syncs) == (3, 3)
    assert step_traffic(counters, Shape(nodes=2, ranks_per_node=2)).secondary_gathers == 0


def test_with_hpz_over_the_world_the_group_tells() -> None:
    collectives = {
        Collective("all_gather", WORLD, 8, group=1): 5,
        Collective("all_gather", WORLD, 8, group=2): 3,
    }
    shape = Shape(nodes=2, ranks_per_node=2, hpz=4)
    assert step_traffic(Counters(collectives=collectives), shape).secondary_gathers == 3


def test_counters_subtract() -> None:
    def counters(n: int) -> Counters:
        return Counters(
            ops=n, events_recorded=2 * n, stream_waits=n, host_syncs={("item", "x"): n, ("event", "y"): 1}
        )

    difference = counters(5) - counters(2)
    assert (difference.ops, difference.events_recorded, difference.host_syncs) == (3, 6, {("item", "x"): 3})
    assert (Counters() - Counters()).host_syncs is None
