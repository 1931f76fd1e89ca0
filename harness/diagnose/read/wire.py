"""Fields of a protocol buffer's message without its schema, enough to read stores whose library is not installed."""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: an int for varints, else raw bytes. Raises ValueError where it breaks off."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == VARINT:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if kind == BYTES:
            length, position = _varint(message, position)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} is not known")
        if position + length > len(message):
            raise ValueError("cut off")
        yield key >> 3, message[position : position + length]
        position += length


def signed(value: int) -> int:
    """A varint of an int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def real(value: bytes) -> float:
    """A float or a double, by its length."""
    return float(struct.unpack("<f" if len(value) == 4 else "<d", value)[0])


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError("cut off")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
