"""Shared by the tests of the report's page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.synthetic import draw_svg_alone


@pytest.fixture(scope="package", autouse=True)
def only_svg() -> Iterator[None]:
    """See `draw_svg_alone`."""
    with pytest.MonkeyPatch.context() as patch:
        draw_svg_alone(patch)
        yield
