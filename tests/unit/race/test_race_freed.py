"""Which allocation may be given which freed block: PyTorch's caching allocator, by size."""

from __future__ import annotations

import pytest

from harness.race.freed import SMALL, fits


@pytest.mark.parametrize(
    ("asked", "block", "fitting"),
    [
        (8, 8, True),
        (512, 8, True),  # blocks are multiples of 512 bytes
        (513, 8, False),
        (8, 100_000, True),  # a larger block is split
        (0, 8, False),
        (SMALL + 1, SMALL + 1, True),
        (SMALL, SMALL + 1, False),  # of the pool of large blocks
        (SMALL + 1, 4 * SMALL, True),
    ],
)
def test_a_freed_block_fits_what_the_allocator_would_give_it_to(
    asked: int, block: int, fitting: bool
) -> None:
    assert fits(asked, block) is fitting
