"""How often the verdict on two curves is wrong: `python -m benchmarks.verdicts`, on planted pairs whose truth is known.

Baselines of 3, 5 and 8 seeds and one more run, drawn from noise of many kinds or really trained (a small network, by
SGD, from different seeds). Equal pairs: the run is one more seed, and whatever is not equivalent is a false alarm.
Drifted pairs: it is lifted over its last half by the smallest drift that the band says it shows. Prints the table of
docs/explanation/statistics.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.judge.band import Floats, noise, tolerance_band
from harness.study import Rule

Random = np.random.Generator


def sgd(random: Random, runs: int, steps: int) -> Floats:
    """Training losses of `runs` seeds of a two-layer network that learns a teacher's labels; shape (runs, steps)."""
    teacher = np.random.default_rng(7).standard_normal((12, 5))
    first = 0.4 * random.standard_normal((runs, 12, 16))
    second = 0.3 * random.standard_normal((runs, 16, 5))
    losses = np.empty((runs, steps))
    for step in range(steps):
        x = random.standard_normal((runs, 24, 12))
        label = (x @ teacher).argmax(axis=-1)
        hidden = np.maximum(x @ first, 0)
        scores = hidden @ second
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        right = np.take_along_axis(scores, label[..., None], axis=-1)[..., 0]
        losses[:, step] = -np.log(right).mean(axis=-1)
        error = (scores - np.eye(5)[label]) / 24
        back = (error @ second.transpose(0, 2, 1)) * (hidden > 0)
        second -= 0.3 * hidden.transpose(0, 2, 1) @ error
        first -= 0.3 * x.transpose(0, 2, 1) @ back
    return losses


def falling(random: Random, runs: int, steps: int) -> Floats:
    """Noise that is three times as large at the start as at the end."""
    size = 1 + 2 * np.exp(-np.arange(steps) / (steps / 4))
    drawn: Floats = size * noise(random, (runs, steps), 0.05)
    return drawn


KINDS: dict[str, Callable[[Random, int, int], Floats]] = {
    "white noise": lambda random, runs, steps: noise(random, (runs, steps), 0.0),
    "memory of 5 % of the run": lambda random, runs, steps: noise(random, (runs, steps), 0.05),
    "memory of half the run": lambda random, runs, steps: noise(random, (runs, steps), 0.5),
    "lasting offset": lambda random, runs, steps: noise(random, (runs, steps), np.inf),
    "offset and white noise": lambda random, runs, steps: (
        0.5 * noise(random, (runs, steps), np.inf) + noise(random, (runs, steps), 0.0)
    ),
    "larger at the start": falling,
    "trained by SGD": sgd,
    "spikes (Student's t, 5)": lambda random, runs, steps: random.standard_t(5, (runs, steps)),
}
SIZES = ((3, 16), (3, 100), (5, 40), (8, 200))  # seeds of the baseline, steps


@dataclass(frozen=True)
class Count:
    """What was planted in noise of one kind, and what was found."""

    kind: str
    pairs: int
    false_alarms: int
    missed: int


def count(kind: str, seeds: int, steps: int, pairs: int, random: Random) -> Count:
    """Plant `pairs` equal pairs, and as many drifted ones."""
    alarms = missed = 0
    for _ in range(pairs):
        *losses, run = KINDS[kind](random, seeds + 1, steps)
        band = tolerance_band(np.stack(losses), Rule())
        assert band is not None
        alarms += band.first_outside(run) is not None
        lifted = run + band.smallest_drift * (np.arange(steps) >= steps // 2)
        missed += band.first_outside(lifted) is None
    return Count(kind, pairs, alarms, missed)


def main(
    pairs: Annotated[int, typer.Option(help="of each kind and size")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object instead of a table")] = False,
) -> None:
    """Count false alarms and missed drifts."""
    random = np.random.default_rng(2024)
    counts = [
        together(kind, [count(kind, seeds, steps, pairs, random) for seeds, steps in SIZES]) for kind in KINDS
    ]
    counts.append(together("all", counts))
    if as_json:
        rates = [
            {"false_alarm_rate": one.false_alarms / one.pairs, "miss_rate": one.missed / one.pairs}
            for one in counts
        ]
        print(json.dumps([asdict(one) | rate for one, rate in zip(counts, rates, strict=True)], indent=1))
        return
    print("| noise between seeds | pairs | false alarms | drifts shown |\n|---|---:|---:|---:|")
    for one in counts:
        shown = 1 - one.missed / one.pairs
        print(f"| {one.kind} | {one.pairs} | {one.false_alarms / one.pairs:.1%} | {shown:.1%} |")


def together(kind: str, counts: Iterable[Count]) -> Count:
    """Several counts as one."""
    sums = zip(*((one.pairs, one.false_alarms, one.missed) for one in counts), strict=True)
    return Count(kind, *(sum(column) for column in sums))


if __name__ == "__main__":
    typer.run(main)
