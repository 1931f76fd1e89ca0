"""Learning rate, weight decay and the parts of a step: what the loop asks of its optimizer and clock."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.study import Training
from harness.workload.engine import build_optimizer, parameter_groups, rate_at, refused_key
from harness.workload.laps import HostMark, Laps


def test_the_rate_climbs_to_its_peak_and_falls_to_a_tenth_on_the_last_step() -> None:
    training = Training(steps=100, warmup_steps=10, schedule="cosine", final_learning_rate=0.1)
    rates = [rate_at(step, training) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11) and rates[10] == 1.0
    assert rates[99] == pytest.approx(0.1)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


@given(st.integers(1, 50), st.integers(0, 60), st.floats(0, 1), st.sampled_from(["constant", "cosine"]))
def test_no_rate_leaves_the_way_from_nothing_to_the_peak(
    steps: int, warmup: int, low: float, schedule: str
) -> None:
    training = Training(steps=steps, warmup_steps=warmup, schedule=schedule, final_learning_rate=low)
    assert all(0 <= rate_at(step, training) <= 1 + 1e-12 for step in range(steps + 5))


def test_decay_spares_what_has_one_dimension() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    decayed, spared = parameter_groups(model, 0.1)
    assert [p.dim() for p in decayed["params"]] == [2] and decayed["weight_decay"] == 0.1
    assert [p.dim() for p in spared["params"]] == [1, 1, 1] and spared["weight_decay"] == 0.0


def test_without_decay_all_parameters_are_one_group() -> None:
    model = torch.nn.Linear(4, 3)
    (group,) = parameter_groups(model, 0.0)
    assert len(group["params"]) == 2


@pytest.mark.parametrize("name", ["adamw", "adamw-fused"])
def test_every_adamw_of_torch_takes_the_same_step(name: str) -> None:
    model = torch.nn.Linear(4, 3)
    torch.nn.init.ones_(model.weight)
    training = Training(optimizer=name, learning_rate=0.1, weight_decay=0.5)
    optimizer = build_optimizer(model, training)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    # Adam's first step is the learning rate, whatever the gradient; decoupled decay takes its share off before.
    assert model.weight[0, 0].item() == pytest.approx(1 - 0.1 * 0.5 - 0.1, rel=1e-5)


def test_laps_of_the_same_part_add_up_and_a_part_that_was_not_run_has_none() -> None:
    moments = iter([0.0, 1.0, 4.0, 10.0, 11.5])
    laps = Laps(lambda: HostMark(next(moments)))
    laps.start()
    laps.end("forward")
    laps.end("backward")
    laps.start()
    laps.end("forward")
    assert (laps.seconds("forward"), laps.seconds("backward")) == (1.0 + 1.5, 3.0)
    assert laps.seconds("optimizer") is None


def test_without_a_clock_there_are_no_laps() -> None:
    laps = Laps(lambda: None)
    laps.start()
    laps.end("forward")
    assert laps.seconds("forward") is None


def test_a_cosine_halfway_is_between_peak_and_end() -> None:
    training = Training(steps=101, schedule="cosine", final_learning_rate=0.0)
    assert math.isclose(rate_at(50, training), 0.5)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"nonsense": 1},
            "deepspeed.zero_optimization.nonsense: DeepSpeed 0.19.8 refuses it: Extra inputs are not",
        ),
        (
            {"reduce_bucket_size": "abc"},
            "deepspeed.zero_optimization.reduce_bucket_size: DeepSpeed 0.19.8 refuses it:",
        ),
    ],
)
def test_a_key_that_deepspeed_does_not_take_is_named(keys: dict[str, object], words: str) -> None:
    class DeepSpeedZeroConfig(BaseModel):
        """As DeepSpeed's own: it forbids what it does not know."""

        model_config = ConfigDict(extra="forbid")
        reduce_bucket_size: int = 1

    with pytest.raises(ValidationError) as raised:
        DeepSpeedZeroConfig.model_validate(keys)
    assert refused_key(raised.value, "0.19.8").startswith(words)
