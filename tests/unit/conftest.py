"""Shared by the unit tests."""

from tests.synthetic import made_up_patches

__all__ = ["made_up_patches"]
