"""What one matrix product takes on a GPU, from its shape.

A GPU works on a product in tiles, one multiprocessor on each; the last wave of tiles leaves some idle, and every tile
pays for its beginning and end whatever its depth (NVIDIA, "Matrix Multiplication Background User's Guide": tile and
wave quantization).
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from harness.hardware import Gpu

TILES = ((128, 256, 1.0), (256, 128, 1.0), (128, 128, 0.92), (64, 128, 0.75), (64, 64, 0.5))
"""Rows and columns of a tile, and its speed against the largest (assumed, after cuBLAS's usual choices)."""


class Product(NamedTuple):
    """`batch` products of (rows × depth) by (depth × columns)."""

    batch: int
    rows: int
    depth: int
    columns: int
    itemsize: int = 2  # bytes of an element: 2 is multiplied at the 16-bit peak

    @property
    def flops(self) -> float:
        return 2.0 * self.batch * self.rows * self.depth * self.columns


def product_seconds(product: Product, gpu: Gpu) -> float:
    """Seconds of arithmetic, without launch and memory traffic.

    Where the profile does not know the multiprocessors, the flops at the efficiency of large products.
    """
    peak = gpu.half_flops if product.itemsize <= 2 else gpu.single_flops
    rate = peak * gpu.matmul_efficiency
    if not gpu.multiprocessors or not product.flops:
        return product.flops / rate
    return min(_tiled(product, tile, rate, gpu) for tile in TILES)


def _tiled(product: Product, tile: tuple[int, int, float], rate: float, gpu: Gpu) -> float:
    rows, columns, speed = tile
    tiles = product.batch * ceil(product.rows / rows) * ceil(product.columns / columns)
    waves = ceil(tiles / gpu.multiprocessors)
    work = 2.0 * rows * columns * (product.depth + gpu.matmul_ramp) * gpu.multiprocessors
    return waves * work / (rate * speed)
