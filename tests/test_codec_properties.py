"""Any value comes back the same; any bytes do no harm."""

from __future__ import annotations

import enum
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laila import codec
from laila.codec import CodecLimits, Encoded, decode, encode, heads
from laila.codec.encoder import Encoder
from laila.errors import Corrupt, LimitExceeded, UnsupportedType
from tests.sameness import essence

quick = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=False, database=None)


class Suit(enum.Enum):
    HEARTS = 1
    SPADES = "s"


class Bit(enum.IntFlag):
    A = 1
    B = 2
    C = 4


@dataclass(frozen=True)
class Box:
    inside: Any
    label: str = ""


class Wrapped:
    def __init__(self, inside: Any) -> None:
        self.inside = inside


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    for cls in (Suit, Bit, Box):
        codec.register(cls)
    codec.register(Wrapped, encode=lambda wrapped: wrapped.inside, decode=Wrapped)
    yield
    for cls in (Suit, Bit, Box, Wrapped):
        codec.unregister(cls)


offsets = st.timedeltas(
    min_value=timedelta(hours=-23, minutes=-59), max_value=timedelta(hours=23, minutes=59)
)
texts = st.text(st.characters(exclude_categories=()), max_size=40)  # lone surrogates too
zones = st.one_of(
    st.none(),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]).map(ZoneInfo),
    offsets.map(timezone),
    st.builds(timezone, offsets, texts),
)
hashable_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    texts,
    st.binary(max_size=300),
    st.datetimes(timezones=zones, allow_imaginary=True),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.uuids(),
    st.decimals().filter(lambda number: not number.is_snan()),  # those cannot be hashed
    st.complex_numbers(),
    texts.map(pathlib.PurePosixPath),
    texts.map(pathlib.PureWindowsPath),
    st.sampled_from(Suit),
    st.integers(0, 7).map(Bit),
)


def _keys(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tuples = st.lists(inner, max_size=3).map(tuple)
    return st.one_of(tuples, st.frozensets(inner, max_size=3), st.builds(Box, inner, texts))


keys = st.recursive(hashable_scalars, _keys, max_leaves=6)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    structured = hnp.array_dtypes(hnp.scalar_dtypes(), max_size=3, allow_subarrays=True)
    dtypes = st.one_of(hnp.scalar_dtypes(), structured)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    dtype = draw(dtypes)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    array = np.ndarray(shape, dtype, buffer=raw)
    change = draw(st.sampled_from(["as it is", "F", "T", "backwards", "every other"]))
    if change == "F":
        return np.asfortranarray(array)
    if change == "T":
        return array.T
    if change == "backwards":
        return array[(slice(None, None, -1),) * array.ndim]
    return array[(slice(None, None, 2),) * array.ndim] if change == "every other" else array


numpy_scalars = hnp.scalar_dtypes().flatmap(hnp.from_dtype)
leaves = st.one_of(hashable_scalars, st.binary(max_size=50).map(bytearray), arrays(), numpy_scalars)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
        st.dictionaries(texts, inner, max_size=5),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(Box, inner, texts),
        st.builds(slice, inner, inner),
    )


values = st.recursive(leaves, _containers, max_leaves=12)


@settings(quick, max_examples=200)
@given(values)
def test_any_value_comes_back_the_same(value: Any) -> None:
    encoded = encode(value)
    assert essence(decode(encoded)) == essence(value)
    in_other_buffers = Encoded(encoded.head, tuple(bytearray(buffer) for buffer in encoded.buffers))
    assert essence(decode(in_other_buffers)) == essence(value)


@settings(quick, max_examples=120)
@given(arrays())
def test_any_array_comes_back_the_same(array: np.ndarray) -> None:
    assert essence(decode(encode(array))) == essence(array)


@settings(quick, max_examples=200)
@given(
    st.dictionaries(
        texts, st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.binary())
    )
)
def test_the_short_way_and_the_long_way_write_the_same(value: dict[str, Any]) -> None:
    for given_value in (value, [1, value], list(value.values())):
        encoder = Encoder(codec.DEFAULT_LIMITS)
        assert encode(given_value).head == heads.pack(encoder.tree(given_value, 0))


@settings(quick, max_examples=100)
@given(values)
def test_items_are_counted_alike_on_both_sides(value: Any) -> None:
    encoder = Encoder(codec.DEFAULT_LIMITS)
    head = heads.pack(encoder.tree(value, 0))
    heads.prove(head, len(head))
    assert heads.count_items(head, len(head)) == encoder.items


def harmless(
    head: bytes, buffers: tuple[bytes, ...] = (), limits: CodecLimits = codec.DEFAULT_LIMITS
) -> None:
    """Decode, expecting a value that can be encoded again or one of three errors."""
    try:
        value = decode(Encoded(head, buffers), limits=limits)
    except (Corrupt, LimitExceeded, UnsupportedType):
        return
    assert essence(decode(encode(value))) == essence(value)


@settings(quick, max_examples=1500)
@given(st.binary(max_size=200))
def test_random_bytes_do_no_harm(head: bytes) -> None:
    harmless(head)


pieces = st.sampled_from(
    [b"\xd4\x00" + bytes([mark]) for mark in range(15)]
    + [b"\xc7\x05" + bytes([code]) for code in range(12)]
    + [
        bytes([byte])
        for byte in (0x80, 0x81, 0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0xC0, 0xC2, 0xC3, 0, 1, 2, 0xFF)
    ]
    + [
        b"\xa1x",
        b"\xa1C",
        b"\xa3<f8",
        b"\xa3|S0",
        b"\xa1U",
        b"\xc4\x04abcd",
        b"\xcb" + bytes(8),
        b"\xdc\x00\x02",
    ]
    + [heads.pack(f"{cls.__module__}.{cls.__qualname__}") for cls in (Suit, Bit, Box, Wrapped)]
    + [heads.pack(name) for name in ("inside", "label", "HEARTS")]
)


@settings(quick, max_examples=1000)
@given(st.lists(pieces, max_size=25).map(b"".join), st.lists(st.binary(max_size=16), max_size=2).map(tuple))
def test_well_formed_pieces_in_any_order_do_no_harm(head: bytes, buffers: tuple[bytes, ...]) -> None:
    harmless(head, buffers)


@st.composite
def mutations(draw: st.DrawFn) -> tuple[bytes, tuple[bytes, ...]]:
    encoded = encode(draw(values))
    head = bytearray(encoded.head)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(head)))
        kind = draw(st.sampled_from(["set", "cut", "insert", "drop", "copy"]))
        if kind == "set" and at < len(head):
            head[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del head[at:]
        elif kind == "insert":
            head[at:at] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "drop":
            del head[at : at + draw(st.integers(1, 8))]
        else:
            head[at:at] = head[: draw(st.integers(0, len(head)))]
    buffers = tuple(bytes(buffer) for buffer in encoded.buffers)
    return bytes(head), buffers[: draw(st.integers(0, len(buffers)))]


@settings(quick, max_examples=300)
@given(mutations())
def test_damaged_heads_do_no_harm(damaged: tuple[bytes, tuple[bytes, ...]]) -> None:
    harmless(*damaged)


@settings(quick, max_examples=100)
@given(values, st.integers(1, 6), st.integers(1, 30))
def test_limits_hold_on_both_sides_alike(value: Any, depth: int, items: int) -> None:
    limits = CodecLimits(max_depth=depth, max_items=items)
    try:
        encode(value, limits=limits)
        allowed = True
    except LimitExceeded:
        allowed = False
    try:
        decode(encode(value), limits=limits)
        decoded = True
    except LimitExceeded:
        decoded = False
    assert decoded == allowed
