"""The order in which an epoch meets its sequences: a permutation that is computed place by place and never stored.

A Feistel network permutes the numbers of an even count of bits, whatever its round function; a number that falls beyond
the size is sent through again until it falls inside (cycle walking, Black and Rogaway 2002), on average less than four
times.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

ROUNDS = 6
MASK = (1 << 64) - 1


def permuted(place: int, size: int, seed: int, epoch: int) -> int:
    """Where `place` of 0 … size − 1 lies in the order of this epoch; each epoch of each seed has its own order."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, epoch)
    while True:
        place = _feistel(place, half, keys)
        if place < size:
            return place


def _feistel(number: int, half: int, keys: tuple[int, ...]) -> int:
    """A permutation of the numbers of 2 × `half` bits."""
    low_bits = (1 << half) - 1
    left, right = number >> half, number & low_bits
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & low_bits)
    return left << half | right


def _mixed(number: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit depends on every other."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK
    return number ^ number >> 31


@lru_cache(maxsize=8)
def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(int(key) for key in np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64))
