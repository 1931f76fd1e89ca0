"""A step written block by block sends what its sharding sends, and is a timeline like any other."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulate.blocks import trace_of_step
from harness.simulate.costs import total_bytes
from harness.simulate.engine import simulate
from harness.simulate.trace import Kind
from harness.simulate.transformer import Step, Transformer, needed_bytes
from tests.simulated_help import A100, with_changes

LLAMA2_7B = Transformer(32, 4096, 32, 32, 11008, 32000, gated=True, rotary=True, tied=False)
SMALL = Transformer(4, 1024, 8, 8, 4096, 1000)
STEP = Step(SMALL, nodes=2, ranks_per_node=8, micro_batch=1, sequence_length=512)


def gathered(step: Step) -> Counter[tuple[str, int]]:
    """(operation, ranks) → payload bytes."""
    trace = trace_of_step(step)
    found: Counter[tuple[str, int]] = Counter()
    for row in trace.rows():
        if row.kind == Kind.COLLECTIVE:
            found[trace.names[row.name], len(trace.groups[row.group])] += row.payload
    return found


def test_the_parameters_of_a_published_model_are_counted() -> None:
    assert LLAMA2_7B.parameters == pytest.approx(6_738_415_616, rel=1e-3)


def test_fully_sharded_parameters_travel_twice_and_gradients_once() -> None:
    whole = 2 * SMALL.parameters
    found = gathered(STEP)
    assert found["all_gather", 16] == pytest.approx(2 * whole, rel=1e-6)
    assert found["reduce_scatter", 16] == pytest.approx(whole, rel=1e-6)


def test_with_hpz_the_backward_pass_gathers_inside_the_node() -> None:
    found = gathered(replace(STEP, secondary_ranks=8))
    assert found["all_gather", 16] == found["all_gather", 8]


def test_without_sharded_parameters_nothing_is_gathered_in_the_passes() -> None:
    found = gathered(replace(STEP, parameters_sharded=False))
    assert found["all_gather", 16] == pytest.approx(2 * SMALL.parameters, rel=1e-6)  # once, after the update


def test_hybrid_shards_are_reduced_among_their_copies() -> None:
    found = gathered(replace(STEP, shard_ranks=8))
    assert set(found) == {("all_gather", 8), ("reduce_scatter", 8), ("all_reduce", 2), ("all_reduce", 16)}


@given(st.floats(1.0, 16.0), st.integers(0, 2))
def test_more_bandwidth_is_never_slower(factor: float, ahead: int) -> None:
    trace = trace_of_step(replace(STEP, blocks_ahead=ahead))
    faster = with_changes("network", bits_per_second=A100.network.bits_per_second * factor)
    assert simulate(trace, faster).seconds <= simulate(trace, A100).seconds * (1 + 1e-9)


def test_gathering_ahead_hides_what_it_can() -> None:
    alone, ahead = (simulate(trace_of_step(replace(STEP, blocks_ahead=n)), A100) for n in (0, 1))
    assert ahead.seconds < alone.seconds
    assert total_bytes(alone.trace, A100) == total_bytes(ahead.trace, A100)


def test_recomputation_adds_a_forward_pass() -> None:
    flops = {
        how: trace_of_step(replace(STEP, checkpointing=how)).columns["flops"].sum()
        for how in ("none", "full")
    }
    assert flops["full"] / flops["none"] == pytest.approx(4 / 3, rel=0.06)  # the head is not recomputed


def test_quantised_gathers_send_half() -> None:
    halved = gathered(replace(STEP, gather_itemsize=1.0))
    assert halved["all_gather", 16] == pytest.approx(gathered(STEP)["all_gather", 16] / 2, rel=1e-6)


def test_quantised_exchanges_send_a_quarter_between_nodes_and_cost_kernels() -> None:
    plain = trace_of_step(Step(LLAMA2_7B, 2, 8, 1, 2048))
    packed = trace_of_step(Step(LLAMA2_7B, 2, 8, 1, 2048, quantised_reduction=True, quantised_gathers=True))
    assert packed.count(Kind.OP) > plain.count(Kind.OP)
    assert total_bytes(packed, A100)[0] < total_bytes(plain, A100)[0]


def test_attention_that_is_not_fused_needs_memory_for_its_scores() -> None:
    steps = [
        Step(LLAMA2_7B, 1, 8, 2, 4096, checkpointing="none", attention=kind) for kind in ("eager", "flash")
    ]
    eager, flash = (needed_bytes(step) for step in steps)
    assert flash < 80e9 < eager
