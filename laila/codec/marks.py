"""Marks: the first item of an array that is not a list, and says what it is. See docs/codec.md.

A mark is extension 0 with one byte, so every marked head contains the bytes d4 00, and a head without them
is a tree that msgpack alone decodes. Marks cannot be hashed: one in the place of a key is refused while the
head is unpacked.
"""

from __future__ import annotations

from msgpack import ExtType

CODE = 0
BYTES = b"\xd4\x00"  # how a mark begins in a head


class Mark:
    """One mark. Only the codec makes them; no value decodes to one."""

    __hash__ = None  # type: ignore[assignment]  # on purpose: see the head of this file
    __slots__ = ("byte", "name", "packed")

    def __init__(self, byte: int, name: str) -> None:
        self.byte = byte
        self.name = name
        self.packed = ExtType(CODE, bytes((byte,)))


TUPLE = Mark(1, "tuple")
SET = Mark(2, "set")
FROZENSET = Mark(3, "frozenset")
DICT = Mark(4, "dict")  # with keys that are not all None, bool, int, float or str
BYTES_BUFFER = Mark(5, "bytes")
BYTEARRAY_BUFFER = Mark(6, "bytearray")
RANGE = Mark(7, "range")
SLICE = Mark(8, "slice")
ENUM = Mark(9, "enum")
DATACLASS = Mark(10, "dataclass")
CUSTOM = Mark(11, "registered class")
NDARRAY = Mark(12, "numpy array")
NPSCALAR = Mark(13, "numpy scalar")

BY_BYTE = {
    bytes((mark.byte,)): mark
    for mark in (
        TUPLE,
        SET,
        FROZENSET,
        DICT,
        BYTES_BUFFER,
        BYTEARRAY_BUFFER,
        RANGE,
        SLICE,
        ENUM,
        DATACLASS,
        CUSTOM,
        NDARRAY,
        NPSCALAR,
    )
}
