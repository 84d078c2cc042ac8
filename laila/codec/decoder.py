"""Decoder: a value from the tree that msgpack unpacked, and the buffers beside it.

Strategy: the tree is rebuilt in place, item by item, from the outside in; what has no marks in it stays
untouched. Each mark has one builder, which checks everything it is given. Depth is counted on the way down,
and every buffer has to be used exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from laila.codec import arrays, marks, scalars
from laila.codec.encoder import ATOMS
from laila.codec.limits import Buffer, nbytes_of, too_deep
from laila.codec.marks import Mark
from laila.codec.registry import Registration, registry
from laila.errors import Corrupt

_FLAT = ATOMS | {bytes}
_TREES = (list, dict, Mark)


def extension(code: int, data: bytes) -> Any:
    """A mark or a scalar from one msgpack extension."""
    if code == marks.CODE:
        mark = marks.BY_BYTE.get(data)
        if mark is None:
            raise Corrupt(f"no array has the mark 0x{data[:8].hex()}")
        return mark
    return scalars.decode_scalar(code, data)


def is_deeper(tree: Any, allowed: int) -> bool:
    """Whether a tree without marks has more than `allowed` containers within each other. Does not recurse."""
    level = [tree]
    for _ in range(allowed):
        inner: list[Any] = []
        for node in level:
            if type(node) is list:
                parts: Any = node
            elif type(node) is dict:
                parts = node.values()
            else:
                continue
            if not _FLAT.issuperset(map(type, parts)):
                inner += [part for part in parts if type(part) is list or type(part) is dict]
        if not inner:
            return False
        level = inner
    return True


class Decoder:
    """The state of one decoding: the buffers, and which of them were used."""

    __slots__ = ("buffers", "max_depth", "unused")

    def __init__(self, max_depth: int, buffers: Sequence[Buffer]) -> None:
        self.max_depth = max_depth
        self.buffers = buffers
        self.unused = set(range(len(buffers)))

    def value(self, tree: Any) -> Any:
        """The value of the whole tree. Raises Corrupt when a buffer is left over."""
        value = self.build(tree, 0)
        if self.unused:
            raise Corrupt(f"{len(self.unused)} of {len(self.buffers)} buffers belong to nothing in the head")
        return value

    def build(self, node: Any, depth: int) -> Any:
        """The value of one node; `depth` containers are around it."""
        kind = type(node)
        if kind is list:
            if depth >= self.max_depth:
                raise too_deep(self.max_depth)
            if node and type(node[0]) is Mark:
                mark = node[0]
                self.each(node, 1, depth + 1)
                return _BUILDERS[mark.byte](self, node)
            self.each(node, 0, depth + 1)
        elif kind is dict:
            if depth >= self.max_depth:
                raise too_deep(self.max_depth)
            if not _FLAT.issuperset(map(type, node.values())):
                for key, part in node.items():
                    if type(part) in _TREES:
                        node[key] = self.build(part, depth + 1)
        elif kind is Mark:
            raise Corrupt(f"the mark of a {node.name} is not at the beginning of an array")
        return node

    def each(self, nodes: list[Any], start: int, depth: int) -> None:
        """Build all nodes of a list from `start` on, in place."""
        if start == 0 and _FLAT.issuperset(map(type, nodes)):
            return
        for index in range(start, len(nodes)):
            if type(nodes[index]) in _TREES:
                nodes[index] = self.build(nodes[index], depth)

    def take(self, number: Any, size: Any) -> Buffer:
        """A buffer by its number; every buffer is taken once."""
        if type(number) is not int or number not in self.unused:
            raise Corrupt(f"the head asks for a buffer that is not there, or twice: {str(number)[:20]}")
        self.unused.remove(number)
        buffer = self.buffers[number]
        if size is not None and (type(size) is not int or size != nbytes_of(buffer)):
            raise Corrupt(f"buffer {number} has {nbytes_of(buffer)} bytes, and the head says otherwise")
        return buffer


def _parts(node: list[Any], count: int) -> list[Any]:
    if len(node) != count + 1:
        raise Corrupt(f"a {node[0].name} of {len(node) - 1} parts")
    return node[1:]


def _tuple(decoder: Decoder, node: list[Any]) -> tuple[Any, ...]:
    del node[0]
    return tuple(node)


def _set(decoder: Decoder, node: list[Any]) -> set[Any]:
    del node[0]
    value = set(node)
    if len(value) != len(node):
        raise Corrupt("a set that holds an item twice")
    return value


def _frozenset(decoder: Decoder, node: list[Any]) -> frozenset[Any]:
    return frozenset(_set(decoder, node))


def _dict(decoder: Decoder, node: list[Any]) -> dict[Any, Any]:
    keys = node[1::2]
    value = dict(zip(keys, node[2::2], strict=True))
    if len(value) != len(keys):
        raise Corrupt("a dict that holds a key twice")
    return value


def _bytes(decoder: Decoder, node: list[Any]) -> bytes:
    buffer = decoder.take(*_parts(node, 2))
    return buffer if type(buffer) is bytes else bytes(buffer)


def _bytearray(decoder: Decoder, node: list[Any]) -> bytearray:
    return bytearray(decoder.take(*_parts(node, 2)))


def _range(decoder: Decoder, node: list[Any]) -> range:
    parts = _parts(node, 3)
    if any(type(part) is not int for part in parts):
        raise Corrupt("a range that is not made of ints")
    return range(*parts)


def _slice(decoder: Decoder, node: list[Any]) -> slice:
    return slice(*_parts(node, 3))


def _find(name: Any, kinds: tuple[str, ...]) -> Registration:
    registration = registry.by_name.get(name) if type(name) is str else None
    if registration is None:
        raise Corrupt(f"no class is registered under the name {str(name)[:200]!r}: call laila.register first")
    if registration.kind not in kinds:
        raise Corrupt(
            f"{registration.name} is registered as {registration.kind}, and the value says otherwise"
        )
    return registration


def _enum(decoder: Decoder, node: list[Any]) -> Any:
    name, key = _parts(node, 2)
    registration = _find(name, ("enum", "flag"))
    cls: Any = registration.cls
    try:
        if registration.kind == "enum" and type(key) is str:
            return cls.__members__[key]
        if registration.kind == "flag" and type(key) is int:
            return cls(key)
    except (KeyError, ValueError) as error:
        raise Corrupt(f"{registration.name} has no member {str(key)[:200]!r}") from error
    raise Corrupt(f"{registration.name} has no member {str(key)[:200]!r}")


def _dataclass(decoder: Decoder, node: list[Any]) -> Any:
    if len(node) < 2 or len(node) % 2:
        raise Corrupt("a dataclass whose fields are not pairs")
    registration = _find(node[1], ("dataclass",))
    names = node[2::2]
    if any(type(name) is not str for name in names) or sorted(names) != sorted(registration.fields):
        given = ", ".join(str(name)[:50] for name in names[:20])
        raise Corrupt(f"{registration.name} has the fields {', '.join(registration.fields)}, not {given}")
    fields = dict(zip(names, node[3::2], strict=True))
    taken = {name: part for name, part in fields.items() if name not in registration.late}
    try:
        value = registration.cls(**taken)
        # All of them, since a __post_init__ may have computed some anew from what is computed already.
        for name, part in fields.items():
            object.__setattr__(value, name, part)
    except Exception as error:
        raise Corrupt(f"{registration.name} cannot be built from its fields: {error!r}") from error
    return value


def _custom(decoder: Decoder, node: list[Any]) -> Any:
    name, part = _parts(node, 2)
    registration = _find(name, ("custom",))
    if registration.decode is None:
        raise Corrupt(f"{registration.name} has no decode function")
    try:
        return registration.decode(part)
    except Exception as error:
        raise Corrupt(f"the decode function of {registration.name} failed: {error!r}") from error


def _array(decoder: Decoder, node: list[Any]) -> Any:
    if len(node) < 4:
        raise Corrupt("a numpy array without its parts")
    _, dtype, order, data, *shape = node
    # Small arrays get memory of their own, so that they can be written to.
    buffer = bytearray(data) if type(data) is bytes else decoder.take(data, None)
    return arrays.build_array(dtype, order, shape, buffer, nbytes_of(buffer))


def _numpy_scalar(decoder: Decoder, node: list[Any]) -> Any:
    return arrays.build_scalar(*_parts(node, 2))


_BUILDERS: dict[int, Callable[[Decoder, list[Any]], Any]] = {
    marks.TUPLE.byte: _tuple,
    marks.SET.byte: _set,
    marks.FROZENSET.byte: _frozenset,
    marks.DICT.byte: _dict,
    marks.BYTES_BUFFER.byte: _bytes,
    marks.BYTEARRAY_BUFFER.byte: _bytearray,
    marks.RANGE.byte: _range,
    marks.SLICE.byte: _slice,
    marks.ENUM.byte: _enum,
    marks.DATACLASS.byte: _dataclass,
    marks.CUSTOM.byte: _custom,
    marks.NDARRAY.byte: _array,
    marks.NPSCALAR.byte: _numpy_scalar,
}
