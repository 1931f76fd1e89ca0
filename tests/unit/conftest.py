"""Shared by the unit tests."""

from tests.synthetic import made_up_patches, svg_alone

__all__ = ["made_up_patches", "svg_alone"]
