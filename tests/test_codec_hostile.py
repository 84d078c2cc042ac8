"""Malformed bytes are Corrupt, and cost no more than their own size."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from laila.codec import CodecLimits, Encoded, decode, encode
from laila.errors import Corrupt, LimitExceeded


def corrupt(head: bytes, *buffers: bytes) -> str:
    with pytest.raises(Corrupt) as caught:
        decode(Encoded(head, buffers))
    return str(caught.value)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xc1",
        b"\x01\x01",
        b"\x91",
        b"\xa5abc",
        b"\xa1\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\x90\x01",
        b"\x81\x80\x01",
        b"\x81\xd4\x00\x01\x01",
        b"\xd4\x00\x01",
        b"\xc7\x01\x00\x01",
        b"\x91\xc7\x01\x00\x01",
        b"\x92\x01\xd4\x00\x01",
        b"\x81\x01\xd4\x00\x01",
        b"\x91\xd4\x00\xee",
        b"\x91\xc7\x02\x00\x01\x01",
        b"\xd4\x7f\x01",
        b"\xd4\xfe\x01",
        b"\xd6\xfe\x00\x00\x00\x00",
        b"\xc7\x08\x01" + bytes(8),
        b"\xd4\x07\x00",
        b"\xc7\x03\x08abc",
        b"\xc7\x03\x081_0",
        b"\xc7\x04\x08 1.0"[:7],
        b"\xd5\x09q/",
        b"\xc7\x00\x09",
        b"\xd6\x04\x00\x00\x01\x01",
        b"\x93\xd4\x00\x02\x01\x01",
        b"\x92\xd4\x00\x02\x90",
        b"\x94\xd4\x00\x04\x01\x02\x01",
        b"\x95\xd4\x00\x04\x01\x02\x01\x03",
        b"\x93\xd4\x00\x05\x00\x01",
        b"\x94\xd4\x00\x07\x00\x01\x00",
        b"\x94\xd4\x00\x07\x00\x01\xc3",
        b"\x93\xd4\x00\x09\xa1x\xa1y",
        b"\x93\xd4\x00\x0b\xa1x\x01",
        b"\x92\xd4\x00\x0a\xa1x",
        b"\x91\xd4\x00\x0c",
        b"\xc7\x10\x03" + bytes(16),
    ],
    ids=lambda head: head[:12].hex(),
)
def test_malformed_heads_are_corrupt(head: bytes) -> None:
    assert corrupt(head)


def ndarray(dtype: Any, order: Any, data: Any, *lengths: Any) -> bytes:
    import msgpack

    node = [msgpack.ExtType(0, b"\x0c"), dtype, order, data, *lengths]
    return bytes(msgpack.packb(node))


def test_arrays_that_lie_are_corrupt() -> None:
    import msgpack

    def struct(*parts: Any) -> bytes:
        return bytes(msgpack.packb(list(parts)))

    deep: Any = "<i4"
    for _ in range(20):
        deep = ["array", deep, [1]]
    assert decode(Encoded(ndarray("<i4", "C", bytes(8), 2))).tolist() == [0, 0]
    for head in (
        ndarray("|O", "C", bytes(8), 1),
        ndarray("O", "C", bytes(8), 1),
        ndarray("object", "C", bytes(8), 1),
        ndarray("<i4,<i4", "C", bytes(8), 1),
        ndarray("<i3", "C", bytes(3), 1),
        ndarray("<i4", "C", bytes(7), 2),
        ndarray("<i4", "C", bytes(9), 2),
        ndarray("<i4", "K", bytes(8), 2),
        ndarray("<i4", "C", bytes(8), -2, -1),
        ndarray("<i4", "C", bytes(8), 2.0),
        ndarray("<i4", "C", bytes(8), True, 2),
        ndarray("<i4", "C", bytes(0), 2**62, 0, 2**62),
        ndarray("<i4", "C", bytes(8), 2, *[1] * 80),
        ndarray("<S9999999999", "C", bytes(8), 1),
        ndarray("<U2147483647", "C", bytes(8), 1),
        ndarray("<M8[0s]", "C", bytes(7), 1),
        ndarray("<g16:7", "C", bytes(16), 1),
        ndarray(None, "C", bytes(8), 1),
        ndarray(5, "C", bytes(8), 1),
        ndarray("<i4", "C", 0, 2),
        ndarray("<i4", "C", "text", 1),
        ndarray(struct("struct", 4, False, False, [["a", "|O", 0]]), "C", bytes(4), 1),
        ndarray(struct("struct", 4, False, False, [["a", "<i8", 0]]), "C", bytes(4), 1),
        ndarray(struct("struct", 4, False, False, [["a", "<i4", -1]]), "C", bytes(4), 1),
        ndarray(struct("struct", 4, False, False, [["a", "<i2", 0], ["a", "<i2", 2]]), "C", bytes(4), 1),
        ndarray(struct("struct", 2**40, False, False, []), "C", bytes(4), 1),
        ndarray(struct("struct", 4, 0, 0, []), "C", bytes(4), 1),
        ndarray(struct("else", 4, False, False, []), "C", bytes(4), 1),
        ndarray(struct("array", "<i4", [2]), "C", bytes(8), 1),
        ndarray(struct("struct", 4, False, False, [["a", ["array", "|S0", [2**40]], 0]]), "C", bytes(4), 1),
        ndarray(struct("struct", 4, False, False, [["a", deep, 0]]), "C", bytes(4), 1),
        ndarray(b"", "C", bytes(4), 1),
        ndarray(b"\xdd\xff\xff\xff\xff", "C", bytes(4), 1),
        ndarray(b"\xd4\x00\x01", "C", bytes(4), 1),
    ):
        assert corrupt(head)


def test_buffers_that_do_not_fit_are_corrupt() -> None:
    head, buffers = encode([b"a" * 65536, np.zeros(1000), bytearray(70000)])
    assert len(buffers) == 3
    assert "there, or twice" in corrupt(head, *buffers[:2])
    assert "belong to nothing" in corrupt(head, *buffers, b"")
    assert "says otherwise" in corrupt(head, b"a" * 65535, *buffers[1:])
    assert "needs 8000 bytes" in corrupt(head, buffers[0], b"x" * 7999, buffers[2])
    assert "belong to nothing" in corrupt(b"\x01", b"x")
    twice = encode([b"a" * 65536] * 2)
    assert "twice" in corrupt(twice.head.replace(b"\x01\xce", b"\x00\xce"), *twice.buffers)


def test_zones_that_are_no_zones_are_corrupt() -> None:
    stamp = bytes([7, 232, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    for zone in (
        b"\x08Nowhere/Land",
        b"\x08../../etc/passwd",
        b"\x08/etc/passwd",
        b"\x08Europe",
        b"\x08",
        b"\x08Europe/\x00",
        b"\x08" + b"A" * 300,
        b"\x04" + bytes(7),
        b"\x04" + b"\x7f" * 8,
        b"\x04" + bytes(9),
        b"\x02x",
        b"\x00x",
        b"\x0a",
        b"\xfe",
    ):
        data = stamp + zone
        assert corrupt(b"\xc8" + len(data).to_bytes(2, "big") + b"\x03" + data)


def test_deep_heads_neither_recurse_nor_waste_memory() -> None:
    for opening, closing in ((b"\x91", b"\x01"), (b"\x81\x01", b"\x01"), (b"\x92\xd4\x00\x01", b"\x01")):
        for depth in (101, 900, 1_000_000):
            with pytest.raises(LimitExceeded) as caught:
                decode(Encoded(opening * depth + closing))
            assert caught.value.limit == "max_depth"


def test_announced_lengths_cost_nothing() -> None:
    heads = [
        b"\xdd\x00\x0f\x42\x40" * 1000 + bytes(1_000_000),
        b"\xdd\x00\x00\x03\xff" * 200,
        b"\xdf\x00\x07\xa1\x20" * 1000 + bytes(1_000_000),
        b"\x91" * 1000 + b"\xc6\x7f\xff\xff\xff",
    ]
    for head in heads:
        tracemalloc.start()
        try:
            with pytest.raises((Corrupt, LimitExceeded)):
                decode(Encoded(head))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * 1024 * 1024


def test_too_many_items_are_refused_before_they_are_built() -> None:
    head = b"\xdd\x00\x1e\x84\x80" + b"\x90" * 2_000_000
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded, match="max_items=1000000"):
            decode(Encoded(head), limits=CodecLimits(max_items=1_000_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
