"""Sameness: what two values must have in common to be the same, type and all, as something `==` can compare.

Python's own equality is too kind (1 == True == 1.0, 0.0 == -0.0) and too strict (nan != nan) for a codec.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from typing import Any

import numpy as np


def essence(value: Any) -> Any:
    """Nested tuples that are equal exactly when the values are the same."""
    kind = type(value)
    if isinstance(value, np.ndarray):
        flags = (value.flags.fnc, value.dtype.isalignedstruct, value.dtype.type)
        return kind, repr(value.dtype), value.dtype.char, flags, value.shape, value.tobytes()
    if isinstance(value, np.str_):
        return kind, str.__str__(value)  # its own drops trailing zeros
    if isinstance(value, np.bytes_):
        return kind, bytes(value)
    if isinstance(value, np.generic):
        return kind, repr(value.dtype), value.tobytes()
    if isinstance(value, enum.Enum):
        return kind, value.name, value.value
    if dataclasses.is_dataclass(value):
        return kind, tuple((f.name, essence(getattr(value, f.name))) for f in dataclasses.fields(value))
    if isinstance(value, list | tuple):
        return kind, tuple(map(essence, value))
    if isinstance(value, set | frozenset):
        return kind, len(value), frozenset(map(essence, value))
    if isinstance(value, dict):
        return kind, tuple((essence(key), essence(item)) for key, item in value.items())
    if isinstance(value, float):
        return kind, struct.pack(">d", value)
    if isinstance(value, complex):
        return kind, struct.pack(">dd", value.real, value.imag)
    if isinstance(value, slice):
        return kind, tuple(map(essence, (value.start, value.stop, value.step)))
    if isinstance(value, bytearray):
        return kind, bytes(value)
    if isinstance(value, bool | int | str | bytes | range) or value is None:
        return kind, value
    return kind, repr(value)  # dates with zone and fold, Decimals, UUIDs, paths: repr tells everything
