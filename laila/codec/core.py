"""Core: encode, decode and register, the four calls that the rest of the library uses.

Strategy: the usual value is a flat dict or list of scalars, and takes one pass at C speed over the types
and then msgpack alone. Everything else goes through the encoder's tree or the decoder's. Bytes are hostile
until proved otherwise: whatever is wrong with them is Corrupt or LimitExceeded, nothing else.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, overload

import msgpack

from laila.codec import encoder as encoding
from laila.codec import heads, marks
from laila.codec.decoder import Decoder, extension, is_deeper
from laila.codec.encoder import ATOMS, BYTES_OUT_OF_BAND, Encoder
from laila.codec.limits import (
    DEFAULT_LIMITS,
    Buffer,
    CodecLimits,
    check_bytes,
    nbytes_of,
    out_of_memory,
    too_deep,
)
from laila.codec.registry import describe, registry
from laila.codec.scalars import decode_scalar
from laila.errors import BadValue, Corrupt, LimitExceeded, UnsupportedType

T = TypeVar("T", bound=type)

_FLAT = ATOMS | {bytes}
_SHORT = 1024  # items: longer containers are packed once, by the encoder
_ROW = 8  # items
_SMALL = 4096  # bytes: in shorter heads containers are counted, in longer ones measured
_NO_CONTAINERS = bytes({*range(256)} - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})
_MARK = marks.BYTES[0]


class Encoded(NamedTuple):
    """A value as bytes: a msgpack head, and beside it the large blocks that the head refers to by number."""

    head: bytes
    buffers: tuple[Buffer, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the head and all buffers together."""
        return len(self.head) + sum(map(nbytes_of, self.buffers))


def encode(value: Any, *, limits: CodecLimits = DEFAULT_LIMITS) -> Encoded:
    """Encode a value. Buffers are views over its own large arrays, bytes and bytearrays, not copies.

    Raises UnsupportedType naming the place of what cannot be encoded, LimitExceeded, and BadValue when an
    object or a registered function is not what it should be. Next: `decode`.
    """
    kind = type(value)
    if _is_flat(value, kind) or (kind is list and limits.max_depth > 1 and _is_flat_within(value)):
        head = heads.pack(value)
        size = len(head)
        # So short that no bytes in it are due out of band, and that it cannot hold more items than bytes.
        if size < BYTES_OUT_OF_BAND and size <= limits.max_items and size <= limits.max_bytes:
            return Encoded(head)
    return _encode_tree(value, limits)


def _is_flat(value: Any, kind: type) -> bool:
    """Whether a value is a short dict or list of nothing but what msgpack packs by itself."""
    if kind is dict:
        return (
            len(value) < _SHORT
            and _FLAT.issuperset(map(type, value.values()))
            and ATOMS.issuperset(map(type, value))
        )
    return kind is list and len(value) < _SHORT and _FLAT.issuperset(map(type, value))


def _is_flat_within(value: list[Any]) -> bool:
    """Whether a list is a row of a few such values: what an entry's record usually is."""
    if len(value) > _ROW:
        return False
    for item in value:
        kind = type(item)
        if kind not in _FLAT and not _is_flat(item, kind):
            return False
    return True


def _encode_tree(value: Any, limits: CodecLimits) -> Encoded:
    encoder = Encoder(limits)
    try:
        tree = encoder.tree(value, 0)
        head = heads.pack(tree)
    except UnsupportedType as error:
        path = f"value{error.path}"
        raise UnsupportedType(
            f"{path} {error.message}", path=path, type_name=error.type_name
        ) from error.__cause__
    except RecursionError as error:
        raise too_deep(limits.max_depth) from error
    except MemoryError as error:
        raise out_of_memory(limits.max_bytes) from error
    check_bytes(len(head) + encoder.nbytes, limits.max_bytes)
    return Encoded(head, tuple(encoder.buffers))


def decode(
    encoded: Encoded | tuple[bytes, tuple[Buffer, ...]], *, limits: CodecLimits = DEFAULT_LIMITS
) -> Any:
    """Decode a value. Large arrays lie over the given buffers, and can be written to when those can.

    Raises Corrupt for what `encode` would not have written, LimitExceeded, and UnsupportedType for an array
    where numpy is not installed.
    """
    head, buffers = encoded
    if type(head) is not bytes:
        head = bytes(head)
    try:
        size = len(head)
        if buffers or size > limits.max_bytes:
            check_bytes(size + sum(map(nbytes_of, buffers)), limits.max_bytes)
        if size > heads.UNPROVEN or size > limits.max_items:
            heads.prove(head, limits.max_items)
        if buffers or (_MARK in head and marks.BYTES in head):
            return Decoder(limits.max_depth, buffers).value(heads.unpack(head, extension))
        # No mark anywhere: the tree is the value. It is not deeper than the bytes that can begin a container.
        tree = heads.unpack(head, decode_scalar)
        depth = size if size > _SMALL else len(head.translate(None, _NO_CONTAINERS))
        if depth > limits.max_depth and is_deeper(tree, limits.max_depth):
            raise too_deep(limits.max_depth)
        return tree
    except (Corrupt, LimitExceeded, UnsupportedType):
        raise
    except (msgpack.StackError, RecursionError) as error:
        raise too_deep(limits.max_depth) from error
    except MemoryError as error:
        raise out_of_memory(limits.max_bytes) from error
    except Exception as error:
        raise Corrupt(f"not an encoded value: {str(error)[:200] or type(error).__name__}") from error


@overload
def register(
    cls: T,
    *,
    name: str | None = None,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
) -> T: ...
@overload
def register(
    cls: None = None,
    *,
    name: str | None = None,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
) -> Callable[[T], T]: ...
def register(
    cls: T | None = None,
    *,
    name: str | None = None,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
) -> T | Callable[[T], T]:
    """Let a class of yours be encoded; also a decorator, bare or with arguments.

    Enums and dataclasses need no functions. Others: `encode` turns an object into a supported value, `decode`
    turns that value into an object. `name` is what the bytes say, by default module and qualified name; all
    processes that exchange the class register it under the same name. A dataclass is rebuilt by calling it
    with its fields, so its `__post_init__` runs. Raises BadValue when the name or the class is taken.
    """
    if cls is None:
        return lambda decorated: register(decorated, name=name, encode=encode, decode=decode)
    if not isinstance(cls, type):
        raise BadValue(f"register takes a class, not {reprlib.repr(cls)}")
    if encoding.is_native(cls):
        raise BadValue(f"{cls.__qualname__} is supported already and cannot be registered")
    registry.add(describe(cls, name, encode, decode))
    return cls


def unregister(cls: type) -> None:
    """Forget a registered class, such as one to be defined anew. Raises BadValue when it is unknown."""
    registry.remove(cls)
