"""Encoder: a value as a tree that msgpack can pack, and the buffers beside it.

Strategy: one recursive walk with a table of handlers by exact type. A handler returns what stands for the
value in the tree; a container whose items msgpack has is returned as it is, without a copy. Depth, items
and bytes are counted on the way down, so a value that contains itself ends early. The path of what is
refused is put together on the way up.
"""

from __future__ import annotations

import enum
import reprlib
from collections.abc import Callable, Iterable
from itertools import chain, islice
from typing import Any

from msgpack import ExtType

from laila.codec import arrays, marks, scalars
from laila.codec.limits import Buffer, CodecLimits, check_bytes, check_items, nbytes_of, too_deep
from laila.codec.registry import Registration, registry
from laila.errors import BadValue, UnsupportedType

ARRAY_OUT_OF_BAND = 4096  # bytes: array data from here on travels as a buffer
BYTES_OUT_OF_BAND = 65536  # bytes: so do bytes and bytearrays

ATOMS = frozenset((type(None), bool, int, float, str))  # what msgpack packs by itself, whatever the value
_CODE_BYTEARRAY = scalars.CODE_BYTEARRAY

Handler = Callable[["Encoder", Any, int], Any]
Step = Callable[[int], str]  # index of an item -> how the path goes on


class Encoder:
    """The state of one encoding: what it may still cost, and the buffers so far."""

    __slots__ = ("buffers", "items", "limits", "nbytes")

    def __init__(self, limits: CodecLimits) -> None:
        self.limits = limits
        self.buffers: list[Buffer] = []
        self.items = 0
        self.nbytes = 0

    def tree(self, value: Any, depth: int) -> Any:
        """What stands for `value` in the tree; `depth` containers are around it."""
        kind = type(value)
        if kind in ATOMS:
            return value
        return (_HANDLERS.get(kind) or _find_handler(kind))(self, value, depth)

    def enter(self, depth: int, items: int) -> int:
        """Count a container and its items; the depth of what is in it."""
        if depth >= self.limits.max_depth:
            raise too_deep(self.limits.max_depth)
        self.items += items
        if self.items > self.limits.max_items:
            check_items(self.items, self.limits.max_items)
        return depth + 1

    def extend(self, out: list[Any], values: Iterable[Any], depth: int, step: Step) -> list[Any]:
        """Append what stands for each value."""
        start = len(out)
        append = out.append
        handlers = _HANDLERS
        try:
            for value in values:
                kind = type(value)
                if kind in ATOMS:
                    append(value)
                else:
                    append((handlers.get(kind) or _find_handler(kind))(self, value, depth))
        except UnsupportedType as error:
            error.path = step(len(out) - start) + error.path
            raise
        return out

    def attach(self, buffer: Buffer) -> int:
        """Add a buffer; the number under which the head refers to it."""
        self.nbytes += nbytes_of(buffer)
        check_bytes(self.nbytes, self.limits.max_bytes)
        self.buffers.append(buffer)
        return len(self.buffers) - 1


def _find_handler(kind: type) -> Handler:
    """The handler of a type that is not in the table: registered, or of a module that is imported late."""
    registration = registry.by_class.get(kind)
    if registration is not None:
        return _REGISTERED[registration.kind]
    scalar = scalars.encoder_for(kind)
    if scalar is not None:
        return _scalar_handler(scalar)
    if arrays.is_array(kind):
        return _array
    if arrays.is_scalar(kind):
        return _numpy_scalar
    raise _unsupported(kind)


def _unsupported(kind: type) -> UnsupportedType:
    name = kind.__qualname__
    if issubclass(kind, enum.Enum) or "__dataclass_fields__" in vars(kind):
        how = f"laila.register({name})"
    else:
        how = f"laila.register({name}, encode=..., decode=...)"
    return UnsupportedType(
        f"is a {name}, which has no codec: {arrays.advice_for(kind)}call {how}", path="", type_name=name
    )


def _scalar_handler(scalar: Callable[[Any], ExtType]) -> Handler:
    return lambda encoder, value, depth: scalar(value)


def _by_index(index: int) -> str:
    return f"[{index}]"


def _by_key(keys: Iterable[Any]) -> Step:
    return lambda index: f"[{_show(next(islice(keys, index, None)))}]"


def _by_item(items: Iterable[Any]) -> Step:
    return lambda index: f"{{{_show(next(islice(items, index, None)))}}}"


def _show(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except Exception:  # the user's __repr__ failed; the error on its way matters more
        return f"<{type(value).__qualname__}>"


def _list(encoder: Encoder, value: list[Any], depth: int) -> list[Any]:
    inner = encoder.enter(depth, len(value))
    if ATOMS.issuperset(map(type, value)):
        return value
    return encoder.extend([], value, inner, _by_index)


def _tuple(encoder: Encoder, value: tuple[Any, ...], depth: int) -> list[Any]:
    inner = encoder.enter(depth, len(value) + 1)
    return encoder.extend([marks.TUPLE.packed], value, inner, _by_index)


def _set(encoder: Encoder, value: set[Any], depth: int) -> list[Any]:
    inner = encoder.enter(depth, len(value) + 1)
    return encoder.extend([marks.SET.packed], value, inner, _by_item(value))


def _frozenset(encoder: Encoder, value: frozenset[Any], depth: int) -> list[Any]:
    inner = encoder.enter(depth, len(value) + 1)
    return encoder.extend([marks.FROZENSET.packed], value, inner, _by_item(value))


def _dict(encoder: Encoder, value: dict[Any, Any], depth: int) -> Any:
    if not ATOMS.issuperset(map(type, value)):
        return _dict_of_pairs(encoder, value, depth)
    inner = encoder.enter(depth, 2 * len(value))
    if ATOMS.issuperset(map(type, value.values())):
        return value
    return dict(zip(value, encoder.extend([], value.values(), inner, _by_key(value)), strict=True))


def _dict_of_pairs(encoder: Encoder, value: dict[Any, Any], depth: int) -> list[Any]:
    inner = encoder.enter(depth, 2 * len(value) + 1)
    keys = encoder.extend([], value, inner, lambda index: f".keys(){_by_item(value)(index)}")
    values = encoder.extend([], value.values(), inner, _by_key(value))
    return [marks.DICT.packed, *chain.from_iterable(zip(keys, values, strict=True))]


def _bytes(encoder: Encoder, value: bytes, depth: int) -> Any:
    if len(value) < BYTES_OUT_OF_BAND:
        return value
    encoder.enter(depth, 3)
    return [marks.BYTES_BUFFER.packed, encoder.attach(value), len(value)]


def _bytearray(encoder: Encoder, value: bytearray, depth: int) -> Any:
    if len(value) < BYTES_OUT_OF_BAND:
        return ExtType(_CODE_BYTEARRAY, bytes(value))
    encoder.enter(depth, 3)
    return [marks.BYTEARRAY_BUFFER.packed, encoder.attach(value), len(value)]


def _range(encoder: Encoder, value: range, depth: int) -> list[Any]:
    encoder.enter(depth, 4)
    return [marks.RANGE.packed, value.start, value.stop, value.step]


def _slice(encoder: Encoder, value: slice, depth: int) -> list[Any]:
    inner = encoder.enter(depth, 4)
    names = (".start", ".stop", ".step")
    parts = (value.start, value.stop, value.step)
    return encoder.extend([marks.SLICE.packed], parts, inner, names.__getitem__)


def _array(encoder: Encoder, value: Any, depth: int) -> list[Any]:
    encoder.enter(depth, 4 + value.ndim)
    dtype = arrays.describe_dtype(value.dtype)
    check_bytes(encoder.nbytes + value.nbytes, encoder.limits.max_bytes)  # before a copy is made
    order, block = arrays.block_of(value)
    data = block.tobytes() if block.nbytes < ARRAY_OUT_OF_BAND else encoder.attach(block)
    return [marks.NDARRAY.packed, dtype, order, data, *value.shape]


def _numpy_scalar(encoder: Encoder, value: Any, depth: int) -> list[Any]:
    encoder.enter(depth, 3)
    return [marks.NPSCALAR.packed, *arrays.describe_scalar(value)]


def _registration(kind: type) -> Registration:
    try:
        return registry.by_class[kind]
    except KeyError:  # unregistered by another thread since it was found
        raise _unsupported(kind) from None


def _enum(encoder: Encoder, value: enum.Enum, depth: int) -> list[Any]:
    encoder.enter(depth, 3)
    return [marks.ENUM.packed, _registration(type(value)).name, value._name_]


def _flag(encoder: Encoder, value: enum.Flag, depth: int) -> list[Any]:
    encoder.enter(depth, 3)
    return [marks.ENUM.packed, _registration(type(value)).name, value._value_]


def _dataclass(encoder: Encoder, value: Any, depth: int) -> list[Any]:
    registration = _registration(type(value))
    names = registration.fields
    inner = encoder.enter(depth, 2 + 2 * len(names))
    try:
        parts = [getattr(value, name) for name in names]
    except AttributeError as error:
        raise BadValue(f"a {type(value).__qualname__} lacks one of its fields: {error}") from error
    parts = encoder.extend([], parts, inner, lambda index: f".{names[index]}")
    return [marks.DATACLASS.packed, registration.name, *chain.from_iterable(zip(names, parts, strict=True))]


def _custom(encoder: Encoder, value: Any, depth: int) -> list[Any]:
    registration = _registration(type(value))
    inner = encoder.enter(depth, 3)
    if registration.encode is None:
        raise _unsupported(type(value))
    try:
        part = registration.encode(value)
    except Exception as error:
        raise BadValue(f"the encode function of {registration.name} failed: {error!r}") from error
    return encoder.extend(
        [marks.CUSTOM.packed, registration.name], (part,), inner, lambda index: ".<encoded>"
    )


_HANDLERS: dict[type, Handler] = {
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _frozenset,
    dict: _dict,
    bytes: _bytes,
    bytearray: _bytearray,
    range: _range,
    slice: _slice,
    **{kind: _scalar_handler(scalar) for kind, scalar in scalars.ENCODERS.items()},
}
_REGISTERED: dict[str, Handler] = {"enum": _enum, "flag": _flag, "dataclass": _dataclass, "custom": _custom}


def is_native(kind: type) -> bool:
    """Whether values of exactly this type are encoded without being registered."""
    found = kind in ATOMS or kind in _HANDLERS or scalars.encoder_for(kind) is not None
    return found or arrays.is_array(kind) or arrays.is_scalar(kind)
