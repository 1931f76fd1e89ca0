"""The band in which one more seed of a baseline stays at all steps together, and the smallest drift that it shows.

Both are simulated: seeds are drawn as often as needed, each band is made of them as of measured ones, and one more seed
is held against it. Step by step the seeds may be alike to any degree (first-order autoregression, from white noise to a
lasting offset): the band holds for the worst of these, the drift for the worst that the baseline does not contradict.
docs/explanation/statistics.md has the numbers on planted pairs, from benchmarks/verdicts.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal, stats

from harness.study import Rule

Floats = npt.NDArray[np.float64]

FEWEST_SEEDS = 3  # whatever the rule asks for
DETECTION = (
    0.97  # asked of the simulation, so that the stated drift is seen with 95 % where the noise is another
)
SPIKES = 5.0  # degrees of freedom of Student's t, from which spiky noise is drawn instead of Gaussian
DRAWS = 2000
LONGEST = 300  # steps that are simulated; a longer curve is thinned to so many
MEMORY = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, np.inf)  # of the noise, in lengths of the run
CONTRADICTED = (
    0.01  # as little memory as the baseline's, or less, is so rare that this much memory is ruled out
)


@dataclass(frozen=True, eq=False)
class Band:
    """Where another baseline seed's loss is expected to stay at every step at once; arrays of shape (steps,)."""

    centre: Floats
    half_width: Floats
    seeds: int
    level: float  # probability that one more seed stays inside at every step
    losses: Floats  # of the seeds, shape (seeds, steps)

    def first_outside(self, loss: Floats) -> int | None:
        found = np.flatnonzero(~(np.abs(loss - self.centre) <= self.half_width))
        return int(found[0]) if found.size else None

    @cached_property
    def smallest_drift(self) -> float:
        """Nats per token: a loss higher by so much over the last half of the steps leaves the band in 95 % of cases."""
        return smallest_drift(self.losses, self.level)


def tolerance_band(losses: Floats, rule: Rule) -> Band | None:
    """Simultaneous band from baseline losses of shape (seeds, steps); None with fewer seeds than the rule asks for.

    Half-width is a common factor times the smoothed spread between seeds (max-t: Montiel Olea & Plagborg-Møller 2019,
    doi 10.1002/jae.2656, with one more seed in the place of an estimate).
    """
    seeds = len(losses)
    if seeds < max(rule.minimum_seeds, FEWEST_SEEDS) or not np.isfinite(losses).all():
        return None
    centre, _, half_width = _band(losses, _times(losses, rule.confidence))
    return Band(centre, half_width, seeds, rule.confidence, losses)


def _band(losses: Floats, times: float) -> tuple[Floats, Floats, Floats]:
    """Centre, spread and half-width, shape (..., steps), from losses of shape (..., seeds, steps); own seeds inside."""
    seeds = losses.shape[-2]
    centre = losses.mean(axis=-2)
    own = losses - centre[..., None, :]
    spread = _spread((own**2).sum(axis=-2) / (seeds - 1))
    farthest = (np.abs(own).max(axis=-2) / spread).max(axis=-1, keepdims=True)
    return centre, spread, np.maximum(times * np.sqrt(1 + 1 / seeds), farthest * (1 + 1e-9)) * spread


def _spread(variance: Floats) -> Floats:
    """Standard deviation between seeds from its variance, shape (..., steps).

    Half of it is pooled over all steps, because few seeds lie close together at some step by chance.
    """
    window = max(1, variance.shape[-1] // 6)
    local = ndimage.uniform_filter1d(variance, size=window, axis=-1, mode="nearest")
    pooled = variance.mean(axis=-1, keepdims=True)
    spread: Floats = np.sqrt((np.maximum(local, 0) + pooled) / 2) + np.finfo(float).tiny
    return spread


def spikiness(losses: Floats) -> float:
    """Excess kurtosis of the seeds' deviations, between 0 (Gaussian) and 1 (far apart at single steps more often)."""
    own = losses - losses.mean(axis=0)
    found = stats.kurtosis(own / _band(losses, 0.0)[1], axis=None)
    return float(np.clip(np.nan_to_num(found), 0, 1))  # of equal seeds it is not a number


def _times(losses: Floats, level: float) -> float:
    """Half-width in units of the spread: between what Gaussian and what spiky noise asks for, as these seeds are."""
    (seeds, steps), share = losses.shape, spikiness(losses)
    found = factor(seeds, steps, level)
    return found + share * (factor(seeds, steps, level, spikes=True) - found) if share else found


@lru_cache(maxsize=256)
def factor(seeds: int, steps: int, level: float, spikes: bool = False) -> float:
    """Half-width in units of the spread: the `level` quantile of the largest deviation of one more seed at any step."""
    simulated = min(steps, LONGEST)
    found = [float(np.quantile(_largest(seeds, simulated, memory, spikes), level)) for memory in MEMORY]
    if steps > simulated:  # white noise, of which every step is another chance
        tail, freedom = (1 + level ** (1 / steps)) / 2, (seeds - 1) * (steps // 4)
        found.append(float(stats.t.ppf(tail, freedom)))
        if spikes:
            found.append(float(stats.t.ppf(tail, SPIKES) / stats.t.std(SPIKES)))
    return max(found)


def _largest(seeds: int, steps: int, memory: float, spikes: bool) -> Floats:
    draws = noise(np.random.default_rng(0), (DRAWS, seeds + 1, steps), memory, spikes)
    of_band, another = draws[:, :-1], draws[:, -1]
    centre, spread, _ = _band(of_band, 0.0)
    largest: Floats = (np.abs(another - centre) / spread).max(axis=-1) / np.sqrt(1 + 1 / seeds)
    return largest


def noise(random: np.random.Generator, shape: tuple[int, ...], memory: float, spikes: bool = False) -> Floats:
    """Noise of variance 1 along the last axis whose correlation falls by e in `memory` times that axis' length."""
    if np.isinf(memory):
        return np.broadcast_to(random.standard_normal((*shape[:-1], 1)), shape)
    white = random.standard_normal(shape)
    alike = float(np.exp(-1 / (memory * shape[-1]))) if memory else 0.0
    white[..., 1:] *= np.sqrt(1 - alike**2)
    drawn: Floats = signal.lfilter([1.0], [1.0, -alike], white, axis=-1)
    if spikes:
        drawn *= np.sqrt((SPIKES - 2) / random.chisquare(SPIKES, shape))
    return drawn


def smallest_drift(losses: Floats, level: float) -> float:
    """The smallest lasting rise of the loss over the last half of the steps that leaves the band with probability 95 %.

    `losses`: of the baseline, shape (seeds, steps). Simulated from the baseline's spread at each step.
    """
    seeds, steps = losses.shape
    thin = np.unique(np.linspace(0, steps - 1, min(steps, LONGEST)).round().astype(int))
    losses = losses[:, thin]
    last = slice(len(thin) // 2, None)
    spikes = spikiness(losses) > 0.5
    times = _times(losses, level)
    spread = _band(losses, times)[1]
    mine = _lasting(losses[None, :, last])[0]
    worst = 0.0
    for memory in MEMORY:
        draws = spread * noise(np.random.default_rng(1), (DRAWS // 2, seeds + 1, len(thin)), memory, spikes)
        of_band, another = draws[:, :-1], draws[:, -1]
        if (_lasting(of_band[..., last]) <= mine).mean() < CONTRADICTED:
            continue
        centre, drawn, half_width = _band(of_band, times)
        needed = (half_width + centre - another)[:, last].min(axis=-1)
        # In units of each drawn band's own spread, as few seeds know it badly.
        worst = max(worst, float(np.quantile(needed / drawn[:, last].mean(axis=-1), DETECTION)))
    return worst * float(spread[last].mean())


def _lasting(losses: Floats) -> Floats:
    """Share of the variance between seeds that lasts over all steps; (draws,) from (draws, seeds, steps)."""
    own = losses - losses.mean(axis=-2, keepdims=True)
    share: Floats = (own.mean(axis=-1) ** 2).mean(axis=-1) / (
        (own**2).mean(axis=(-1, -2)) + np.finfo(float).tiny
    )
    return share
