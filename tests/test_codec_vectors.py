"""Golden vectors: the bytes of docs/codec.md. A change here makes what was stored before unreadable."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from laila import codec
from laila.codec import Encoded, decode, encode
from tests.sameness import essence


class Colour(enum.Enum):
    RED = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: float
    y: float


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __repr__(self) -> str:
        return f"Money({self.cents})"


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    codec.register(Colour, name="colour")
    codec.register(Right, name="right")
    codec.register(Point, name="point")
    codec.register(Money, name="money", encode=lambda money: money.cents, decode=Money)
    yield
    for cls in (Colour, Right, Point, Money):
        codec.unregister(cls)


VECTORS: list[tuple[Any, str]] = [
    (None, "c0"),
    (True, "c3"),
    (0, "00"),
    (-33, "d0 df"),
    (2**64 - 1, "cf ff ff ff ff ff ff ff ff"),
    (2**64, "c7 09 01 01 00 00 00 00 00 00 00 00"),
    (-(2**63) - 1, "c7 09 01 ff 7f ff ff ff ff ff ff ff"),
    (1.5, "cb 3f f8 00 00 00 00 00 00"),
    (-0.0, "cb 80 00 00 00 00 00 00 00"),
    ("ä", "a2 c3 a4"),
    ("\ud800", "a3 ed a0 80"),
    (b"\x00\xff", "c4 02 00 ff"),
    (bytearray(b"ab"), "d5 0a 61 62"),
    ([1, "a"], "92 01 a1 61"),
    ({"a": 1, "b": None}, "82 a1 61 01 a1 62 c0"),
    ((1, 2), "93 d4 00 01 01 02"),
    ((), "91 d4 00 01"),
    ({1}, "92 d4 00 02 01"),
    (frozenset({"x"}), "92 d4 00 03 a1 78"),
    ({(1, 2): "v", 3: 4}, "95 d4 00 04 93 d4 00 01 01 02 a1 76 03 04"),
    (1 - 2j, "d8 02 3f f0 00 00 00 00 00 00 c0 00 00 00 00 00 00 00"),
    (datetime(2024, 2, 29, 12, 30, 45, 123456), "c7 0c 03 07 e8 02 1d 0c 1e 2d 00 01 e2 40 00"),
    (datetime(2024, 1, 1, tzinfo=UTC), "c7 0c 03 07 e8 01 01 00 00 00 00 00 00 00 02"),
    (
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        "c7 19 03 07 e8 0a 1b 02 1e 00 00 00 00 00 09 45 75 72 6f 70 65 2f 42 65 72 6c 69 6e",
    ),
    (
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-1))),
        "c7 14 03 07 e8 01 01 00 00 00 00 00 00 00 04 ff ff ff ff 29 6c 5c 00",
    ),
    (
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
        "c7 17 03 07 e8 01 01 00 00 00 00 00 00 00 06 00 00 00 00 d6 93 a4 00 43 45 54",
    ),
    (date(2024, 2, 29), "d6 04 07 e8 02 1d"),
    (time(12, 30, 45, 7), "d7 05 0c 1e 2d 00 00 00 07 00"),
    (timedelta(-1, 2, 3), "c7 0c 06 ff ff ff ff 00 00 00 02 00 00 00 03"),
    (UUID("00112233-4455-6677-8899-aabbccddeeff"), "d8 07 00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff"),
    (Decimal("-1.50E+3"), "d7 08 2d 31 2e 35 30 45 2b 33"),
    (Decimal("sNaN7"), "c7 05 08 73 4e 61 4e 37"),
    (PurePosixPath("/a"), "c7 03 09 78 2f 61"),
    (PureWindowsPath("C:/a"), "c7 05 09 77 43 3a 5c 61"),
    (Path("a/b"), "d6 09 70 61 2f 62"),
    (range(0, 10, 2), "94 d4 00 07 00 0a 02"),
    (slice(1, None), "94 d4 00 08 01 c0 c0"),
    (Colour.RED, "93 d4 00 09 a6 63 6f 6c 6f 75 72 a3 52 45 44"),
    (Right.READ | Right.WRITE, "93 d4 00 09 a5 72 69 67 68 74 03"),
    (Point(1, 2.5), "96 d4 00 0a a5 70 6f 69 6e 74 a1 78 01 a1 79 cb 40 04 00 00 00 00 00 00"),
    (Money(5), "93 d4 00 0b a5 6d 6f 6e 65 79 05"),
    (np.array([1, 2], "<i2"), "95 d4 00 0c a3 3c 69 32 a1 43 c4 04 01 00 02 00 02"),
    (
        np.array([[1, 2], [3, 4]], ">u2", order="F"),
        "96 d4 00 0c a3 3e 75 32 a1 46 c4 08 00 01 00 03 00 02 00 04 02 02",
    ),
    (np.array(1.5), "94 d4 00 0c a3 3c 66 38 a1 43 c4 08 00 00 00 00 00 00 f8 3f"),
    (np.zeros((0, 3), "?"), "96 d4 00 0c a3 7c 62 31 a1 43 c4 00 00 03"),
    (
        np.array(["2020-01-01"], "M8[D]"),
        "95 d4 00 0c a6 3c 4d 38 5b 44 5d a1 43 c4 08 56 47 00 00 00 00 00 00 01",
    ),
    (
        np.array([(1, b"xy")], [("a", "<i2"), ("b", "S2")]),
        "95 d4 00 0c c4 1c 95 a6 73 74 72 75 63 74 04 c2 c2 92 93 a1 61 a3 3c 69 32 00 93 a1 62 a3 "
        "7c 53 32 02 a1 43 c4 04 01 00 78 79 01",
    ),
    (
        np.zeros(1, [("a", "<i2", (2,))]),
        "95 d4 00 0c c4 1d 95 a6 73 74 72 75 63 74 04 c2 c2 91 93 a1 61 93 a5 61 72 72 61 79 a3 3c "
        "69 32 91 02 00 a1 43 c4 04 00 00 00 00 01",
    ),
    (np.float32(1.5), "93 d4 00 0d a3 3c 66 34 c4 04 00 00 c0 3f"),
    (np.str_("a"), "93 d4 00 0d a1 55 a1 61"),
]

Y = b"y" * 65536
GRID = np.zeros((1024, 2), "<u2", order="F")
OUT_OF_BAND: list[tuple[Any, str, tuple[bytes, ...]]] = [
    (Y, "93 d4 00 05 00 ce 00 01 00 00", (Y,)),
    (bytearray(70000), "93 d4 00 06 00 ce 00 01 11 70", (bytes(70000),)),
    (np.zeros(512), "95 d4 00 0c a3 3c 66 38 a1 43 00 cd 02 00", (bytes(4096),)),
    (
        [GRID, (Y,)],
        "92 96 d4 00 0c a3 3c 75 32 a1 46 00 cd 04 00 02 92 d4 00 01 93 d4 00 05 01 ce 00 01 00 00",
        (bytes(4096), Y),
    ),
]


@pytest.mark.parametrize(("value", "head"), VECTORS, ids=[head[:40] for _, head in VECTORS])
def test_a_value_is_these_bytes(value: Any, head: str) -> None:
    assert encode(value).head.hex(" ") == head
    assert encode(value).buffers == ()


@pytest.mark.parametrize(("value", "head"), VECTORS, ids=[head[:40] for _, head in VECTORS])
def test_these_bytes_are_a_value(value: Any, head: str) -> None:
    assert essence(decode(Encoded(bytes.fromhex(head)))) == essence(value)


@pytest.mark.parametrize(
    ("value", "head", "buffers"), OUT_OF_BAND, ids=[head[:40] for _, head, _ in OUT_OF_BAND]
)
def test_large_blocks_are_these_buffers(value: Any, head: str, buffers: tuple[bytes, ...]) -> None:
    encoded = encode(value)
    assert encoded.head.hex(" ") == head
    assert tuple(map(bytes, encoded.buffers)) == buffers
    assert essence(decode(Encoded(bytes.fromhex(head), buffers))) == essence(value)
