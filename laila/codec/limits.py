"""Limits of one value: how deep, how many bytes, how many items; and the buffers it travels in."""

from __future__ import annotations

import mmap
from typing import NamedTuple

from laila.errors import BadValue, LimitExceeded

Buffer = bytes | bytearray | memoryview | mmap.mmap

_DEEPEST = 256  # what msgpack and Python's own stack surely hold


class _Limits(NamedTuple):
    max_depth: int
    max_bytes: int
    max_items: int


class CodecLimits(_Limits):
    """What one value may be. Crossing one raises LimitExceeded with the field's name as `limit`.

    `max_depth`: containers within containers, at most 256. `max_bytes`: of the head and all buffers together.
    `max_items`: in all containers together; a pair of a dict is two, a mark or a name is one.
    """

    # No dataclass: the module behind those takes longer to import than the codec.
    __slots__ = ()

    def __new__(
        cls, max_depth: int = 100, max_bytes: int = 4 * 1024**3, max_items: int = 50_000_000
    ) -> CodecLimits:
        limits = super().__new__(cls, max_depth, max_bytes, max_items)
        for name, given in limits._asdict().items():
            if type(given) is not int or given < 1:
                raise BadValue(f"{name}={given!r} is not a count of at least 1")
        if max_depth > _DEEPEST:
            raise BadValue(f"max_depth={max_depth} is more than the {_DEEPEST} that can be walked")
        return limits


DEFAULT_LIMITS = CodecLimits()


def nbytes_of(buffer: Buffer) -> int:
    """Bytes in one buffer."""
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


def check_bytes(size: int, allowed: int) -> None:
    """Raise LimitExceeded when a value of `size` bytes crosses max_bytes."""
    if size > allowed:
        message = f"the value has {size} bytes, more than max_bytes={allowed}"
        raise LimitExceeded(message, limit="max_bytes", allowed=allowed, got=size)


def check_items(items: int, allowed: int) -> None:
    """Raise LimitExceeded when a value of `items` items, or more, crosses max_items."""
    if items > allowed:
        message = f"the value has more than max_items={allowed} items"
        raise LimitExceeded(message, limit="max_items", allowed=allowed, got=items)


def too_deep(allowed: int) -> LimitExceeded:
    """The error for a value that crosses max_depth."""
    message = f"the value is nested deeper than max_depth={allowed}, or contains itself"
    return LimitExceeded(message, limit="max_depth", allowed=allowed, got=allowed + 1)


def out_of_memory(allowed: int) -> LimitExceeded:
    """The error for a value that max_bytes allows and this machine cannot hold."""
    message = f"there is not enough memory for the value, although max_bytes={allowed} may allow it"
    return LimitExceeded(message, limit="max_bytes", allowed=allowed)
