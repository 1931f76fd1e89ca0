"""What a matrix product takes follows from its shape, and meets what was measured on A100s."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.clock.products import Product, product_seconds
from harness.hardware import find
from tests.simulated_help import A100

GPU = A100.gpu
MEASURED = {  # forward products of a layer of 4,096 with 8,192 tokens on an A100-class card: TFLOP/s
    Product(1, 8192, 4096, 12288): 241.6,
    Product(1, 8192, 4096, 4096): 234.9,
    Product(1, 8192, 4096, 16384): 241.1,
    Product(1, 8192, 16384, 4096): 252.8,
    Product(1, 8192, 4096, 51200): 255.4,
    Product(64, 2048, 256, 2048): 130.2,
    Product(64, 2048, 2048, 256): 219.0,
}


@pytest.mark.parametrize(("product", "teraflops"), MEASURED.items())
def test_products_of_a_layer_take_what_was_measured(product: Product, teraflops: float) -> None:
    assert product.flops / product_seconds(product, GPU) / 1e12 == pytest.approx(teraflops, rel=0.1)


def test_one_tile_more_than_a_wave_costs_another_wave() -> None:
    full, more = (
        Product(1, 128 * tiles, 4096, 256) for tiles in (GPU.multiprocessors, GPU.multiprocessors + 1)
    )
    assert product_seconds(more, GPU) > 1.3 * product_seconds(full, GPU)


@given(*(st.integers(1, 20_000) for _ in range(3)))
def test_no_product_is_faster_than_the_efficiency_allows(rows: int, depth: int, columns: int) -> None:
    product = Product(1, rows, depth, columns)
    assert product_seconds(product, GPU) >= product.flops / (GPU.half_flops * GPU.matmul_efficiency)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_more_depth_never_takes_less(depth: int, more: int) -> None:
    shallow, deep = (Product(1, 1000, each, 1000) for each in (depth, depth + more))
    assert product_seconds(shallow, GPU) <= product_seconds(deep, GPU)


def test_single_precision_is_multiplied_at_its_own_peak() -> None:
    half, single = (Product(1, 4096, 4096, 4096, itemsize) for itemsize in (2, 4))
    ratio = GPU.half_flops / GPU.single_flops
    assert product_seconds(single, GPU) == pytest.approx(ratio * product_seconds(half, GPU))


def test_without_known_multiprocessors_only_the_efficiency_counts() -> None:
    plain = find("gpus", "a100-sxm-80gb").model_copy(update={"multiprocessors": 0})
    product = Product(1, 100, 100, 100)
    assert product_seconds(product, plain) == product.flops / (plain.half_flops * plain.matmul_efficiency)
