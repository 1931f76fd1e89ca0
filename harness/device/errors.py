"""The error of a program that the virtual device cannot run as CUDA would."""

from __future__ import annotations


class DeviceError(RuntimeError):
    """Says what the program did, and that the device refuses rather than guesses."""


class MixedDevices(DeviceError):
    """Tensors of host and device in one operator."""


class Unmapped(DeviceError):
    """Something of CUDA that the virtual device has nothing like."""
