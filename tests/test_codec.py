"""What is encoded comes back, type and all; what cannot be is refused with its place; limits have names."""

from __future__ import annotations

import collections
import dataclasses
import enum
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from laila import codec
from laila.codec import CodecLimits, Encoded, decode, encode, heads
from laila.errors import BadValue, Corrupt, LimitExceeded, UnsupportedType
from tests.sameness import essence

BERLIN = ZoneInfo("Europe/Berlin")
NAN_WITH_PAYLOAD = np.array([0xFFF8_0000_0000_1234], "u8").view("f8")[0].item()


class Colour(enum.Enum):
    RED = (1, 2)
    GREEN = "g"
    VERT = "g"  # an alias


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2**70


class Word(enum.StrEnum):
    ONE = "one"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Mode(enum.IntFlag):
    A = 1
    B = 8


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float = 0.0


@dataclass
class Shape:
    name: str
    corners: list[Point]
    area: float = field(init=False, default=-1.0)
    origin: Point = field(default=Point(0, 0), kw_only=True)


class Money:
    """A class that needs functions."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    def __hash__(self) -> int:
        return hash(self.cents)

    def __repr__(self) -> str:
        return f"Money({self.cents})"


class Pair(NamedTuple):
    left: int
    right: int


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    classes = (Colour, Level, Word, Right, Mode, Point, Shape)
    for cls in classes:
        codec.register(cls)
    codec.register(Money, name="money", encode=lambda money: money.cents, decode=Money)
    yield
    for cls in (*classes, Money):
        codec.unregister(cls)


def shape() -> Shape:
    made = Shape("triangle", [Point(1.5), Point(-0.0, 2.0)], origin=Point(9, 9))
    made.area = 12.5
    return made


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    2**5000,
    -(2**64),
    0.0,
    -0.0,
    1e-320,
    float("inf"),
    float("-inf"),
    float("nan"),
    -float("nan"),
    NAN_WITH_PAYLOAD,
    "",
    "größe \U0001f600 \x00",
    "\ud800 lone \udfff",
    b"",
    b"\x00\xff",
    bytearray(),
    bytearray(b"\x01\x02"),
    [],
    [[], {}, ()],
    (),
    (1, (2, [3])),
    set(),
    {1, "a", (2, 3)},
    frozenset(),
    frozenset({frozenset({1}), None}),
    {},
    {"b": 1, "a": 2},
    {None: 0, True: 1, 2: 3, 2.5: 4, b"k": 5, (1, (2,)): 6, frozenset({1}): 7},
    {UUID(int=5): [1], date(2020, 2, 29): {2}, Decimal("1.50"): (3,), Colour.RED: 4, Point(1, 2): 5},
    {"\udc80": "\udc80", 2**80: -(2**80)},
    {(): {(): {(): ()}}},
    datetime(2024, 10, 27, 2, 30, 0, 123456),
    datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
    datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime.max,
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-5, minutes=-30, microseconds=1))),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET \ud800")),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "Z")),
    date.min,
    time(23, 59, 59, 999999, fold=1),
    time(1, tzinfo=BERLIN),
    time(1, tzinfo=timezone(timedelta(hours=2), "X")),
    timedelta.max,
    timedelta.min,
    timedelta(microseconds=-1),
    UUID("12345678-1234-5678-1234-567812345678"),
    Decimal("-0"),
    Decimal("1E+1000"),
    Decimal("0E-27"),
    Decimal("NaN"),
    Decimal("-sNaN123"),
    Decimal("-Infinity"),
    Decimal("123456789012345678901234567890.123"),
    complex(-0.0, float("nan")),
    PurePosixPath("/a/b c"),
    PureWindowsPath("C:\\x\\y"),
    Path("relative/\udcff"),
    range(0, 2**70, 3),
    slice(None, 5, (1, 2)),
    Colour.RED,
    Colour.VERT,
    Level.HIGH,
    Word.ONE,
    Right.READ,
    Right.READ | Right.WRITE,
    Right(0),
    Mode.A | Mode.B,
    Mode(64),
    Point(1, 2),
    shape(),
    Money(5),
    [Money(1), {Money(2): {Money(3)}}],
    b"x" * 65536,
    bytearray(b"y" * 65537),
    {b"k" * 65536: [b"z" * 70000]},
]


def named(value: object) -> str:
    """The same in every process, though sets are in another order there."""
    shown = repr(sorted(map(repr, value))) if isinstance(value, set | frozenset) else repr(value)
    return f"{type(value).__name__}-{shown[:24]!a}"


@pytest.mark.parametrize("value", VALUES, ids=named)
def test_a_value_comes_back_the_same(value: Any) -> None:
    assert essence(decode(encode(value))) == essence(value)
    assert essence(decode(encode([value, "after"]))) == essence([value, "after"])
    assert essence(decode(encode({"before": 0, "v": (value,)}))) == essence({"before": 0, "v": (value,)})


def test_the_order_of_a_dict_is_kept() -> None:
    for keys in (["z", "a", "m"], [(2,), (1,), "x"]):
        assert list(decode(encode({key: 0 for key in keys}))) == keys


def test_the_default_fields_of_a_dataclass_are_what_they_were() -> None:
    value = decode(encode(shape()))
    assert value == shape()
    assert value.area == 12.5


def test_a_mutable_value_comes_back_as_another_object() -> None:
    value = {"list": [1], "array": np.zeros(3), "bytes": bytearray(b"x" * 70000)}
    back = decode(encode(value))
    back["list"].append(2)
    back["array"][0] = 5
    back["bytes"][0] = 0
    assert value["list"] == [1]
    assert value["array"][0] == 0
    assert value["bytes"][0] == ord("x")


# Refusals


class Odd(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(0)


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@dataclass
class Stranger:
    x: int = 0


class SubInt(int):
    pass


@pytest.mark.parametrize(
    ("value", "path", "advice"),
    [
        (object(), "value", "laila.register(object, encode=..., decode=...)"),
        ({"a": [0, 1, 2, Point(object(), 0)]}, "value['a'][3].x", "laila.register(object"),
        ([Stranger()], "value[0]", "laila.register(Stranger)"),
        ((1, (2, Pair(1, 2))), "value[1][1]", "laila.register(Pair"),
        ({"k": {"n": SubInt(3)}}, "value['k']['n']", "laila.register(SubInt"),
        ({(1, SubInt(3)): 0}, "value.keys(){(1, 3)}[1]", "SubInt"),
        ({1: {SubInt(3)}}, "value[1]{3}", "SubInt"),
        ({1: frozenset({SubInt(3)})}, "value[1]{3}", "SubInt"),
        (slice(0, SubInt(1)), "value.stop", "SubInt"),
        (collections.OrderedDict(a=1), "value", "OrderedDict"),
        (collections.defaultdict(int), "value", "defaultdict"),
        ([memoryview(b"x")], "value[0]", "memoryview"),
        ([datetime(2020, 1, 1, tzinfo=Odd())], "value[0].tzinfo", "ZoneInfo"),
        ({"f": len}, "value['f']", "builtin_function"),
        ({"t": int}, "value['t']", "type"),
        ({(1,): [Unprintable()]}, "value[(1,)][0]", "Unprintable"),
    ],
    ids=lambda value: f"{value!s:.30}" if isinstance(value, str) else "",
)
def test_what_has_no_codec_is_refused_with_its_place_and_advice(value: Any, path: str, advice: str) -> None:
    with pytest.raises(UnsupportedType) as caught:
        encode(value)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path} ")
    assert advice in str(caught.value)


def test_a_key_that_cannot_be_printed_is_refused_all_the_same() -> None:
    class list(Unprintable):  # a name that reprlib takes for the real one
        pass

    for key in (Unprintable(), list()):
        with pytest.raises(UnsupportedType, match=type(key).__qualname__):
            encode({key: 1})


def test_msgpacks_own_types_are_not_let_through() -> None:
    import msgpack

    for value in (msgpack.ExtType(1, b"x"), msgpack.Timestamp(1, 2)):
        for place in (value, [value], {"a": value}, {value: 1}):
            with pytest.raises(UnsupportedType):
                encode(place)


# Registering


def test_register_works_as_a_decorator() -> None:
    @codec.register
    @dataclass
    class Bare:
        x: int

    @codec.register(name="with a name")
    class Named(enum.Enum):
        A = 1

    try:
        assert decode(encode([Bare(1), Named.A])) == [Bare(1), Named.A]
        assert b"with a name" in encode(Named.A).head
        assert b"Bare" in encode(Bare(1)).head
    finally:
        codec.unregister(Bare)
        codec.unregister(Named)


def test_a_subclass_of_a_builtin_can_be_registered() -> None:
    codec.register(Pair, encode=tuple, decode=lambda parts: Pair(*parts))
    try:
        assert essence(decode(encode([Pair(1, 2)]))) == essence([Pair(1, 2)])
    finally:
        codec.unregister(Pair)
    with pytest.raises(UnsupportedType):
        encode(Pair(1, 2))


def test_one_name_stands_for_one_class() -> None:
    class Other(enum.Enum):
        A = 1

    with pytest.raises(BadValue, match=r"'money' is taken by .*Money"):
        codec.register(Other, name="money")
    with pytest.raises(BadValue, match="already registered, as 'money'"):
        codec.register(Money, name="cash", encode=lambda m: m.cents, decode=Money)
    codec.register(Money, name="money", encode=lambda m: [m.cents], decode=lambda c: Money(*c))
    assert decode(encode(Money(3))) == Money(3)


@dataclass
class NeedsInitVar:
    x: dataclasses.InitVar[int]


@dataclass(init=False)
class OwnInit:
    x: int

    def __init__(self, other: int) -> None:
        self.x = other


@dataclass
class DictAndFields(dict):  # type: ignore[type-arg]  # its content does not matter here
    x: int = 0


@pytest.mark.parametrize("cls", [object, Pair, NeedsInitVar, OwnInit, DictAndFields])
def test_a_class_that_needs_functions_is_not_registered_without(cls: type) -> None:
    with pytest.raises(BadValue, match="encode="):
        codec.register(cls)


def test_what_is_no_class_or_needs_no_codec_is_not_registered() -> None:
    for cls in (
        int,
        dict,
        bool,
        datetime,
        Decimal,
        UUID,
        Path("x").__class__,
        np.ndarray,
        np.float32,
        type(None),
    ):
        with pytest.raises(BadValue, match="supported already"):
            codec.register(cls, encode=str, decode=str)
    with pytest.raises(BadValue, match="takes a class"):
        codec.register(Point(1, 2))  # type: ignore[type-var]  # the mistake under test
    with pytest.raises(BadValue, match="both"):
        codec.register(Money, name="m2", encode=str)
    with pytest.raises(BadValue, match="not empty"):
        codec.register(Stranger, name="")
    with pytest.raises(BadValue, match="not registered"):
        codec.unregister(Stranger)


def test_a_subclass_of_a_registered_class_is_another_class() -> None:
    class Finer(Point):
        pass

    with pytest.raises(UnsupportedType):
        encode(Finer(1, 2))
    with pytest.raises(BadValue, match="neither an enum nor a dataclass"):
        codec.register(Finer)


def test_functions_that_fail_say_which() -> None:
    codec.register(Stranger, name="s", encode=lambda s: 1 / s.x, decode=lambda part: 1 // 0)
    try:
        with pytest.raises(BadValue, match="encode function of s failed") as refused:
            encode([Stranger(0)])
        assert isinstance(refused.value.__cause__, ZeroDivisionError)
        with pytest.raises(Corrupt, match="decode function of s failed") as corrupt:
            decode(encode([Stranger(1)]))
        assert isinstance(corrupt.value.__cause__, ZeroDivisionError)
    finally:
        codec.unregister(Stranger)


def test_a_field_that_is_not_set_is_refused() -> None:
    value = shape()
    del value.name
    with pytest.raises(BadValue, match="lacks one of its fields"):
        encode(value)


def test_a_class_is_found_by_what_this_process_registered() -> None:
    encoded = encode([Money(1), Colour.RED, Point(1, 2)])
    codec.unregister(Money)
    with pytest.raises(Corrupt, match="registered under the name 'money'"):
        decode(encoded)
    codec.register(Money, name="money", encode=lambda m: m.cents, decode=Money)


def test_fields_that_are_missing_or_unknown_are_corrupt() -> None:
    head = encode(Point(1, 2)).head
    with pytest.raises(Corrupt, match="has the fields x, y, not x, z"):
        decode(Encoded(head.replace(b"\xa1y", b"\xa1z")))
    with pytest.raises(Corrupt, match="has the fields x, y, not x, x"):
        decode(Encoded(head.replace(b"\xa1y", b"\xa1x")))
    with pytest.raises(Corrupt, match="has the fields x, y, not x"):
        decode(Encoded(b"\x94" + head[1:].partition(b"\xa1y")[0]))
    colour = encode(Colour.RED).head
    with pytest.raises(Corrupt, match="no member 'RAD'"):
        decode(Encoded(colour.replace(b"RED", b"RAD")))
    with pytest.raises(Corrupt, match="is registered as enum"):
        decode(Encoded(head.replace(*(heads.pack(f"{__name__}.{name}") for name in ("Point", "Colour")))))


def test_many_threads_register_encode_and_decode() -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            cls = enum.Enum(f"Made{number}", ["A", "B"])
            for _ in range(50):
                codec.register(cls, name=f"made {number}")
                value = {"e": cls.B, "t": (number, "x" * number), "p": Point(number, 2**70 + number)}
                assert decode(encode(value)) == value
                flat = {"number": number, "big": 2**64 + number}
                assert decode(encode(flat)) == flat
                codec.unregister(cls)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []


# Limits


def nested(depth: int, leaf: Any = 0) -> Any:
    value = leaf
    for level in range(depth):
        value = ([value], {"k": value})[level % 2]
    return value


def test_depth_has_a_limit() -> None:
    for make in (nested, lambda depth: nested(depth - 1, (1,)), lambda depth: nested(depth - 1, [])):
        limits = CodecLimits(max_depth=7)
        encoded = encode(make(7), limits=limits)
        assert decode(encoded, limits=limits) == make(7)
        with pytest.raises(LimitExceeded) as caught:
            encode(make(8), limits=limits)
        assert (caught.value.limit, caught.value.allowed) == ("max_depth", 7)
        with pytest.raises(LimitExceeded) as caught:
            decode(encode(make(8)), limits=limits)
        assert caught.value.limit == "max_depth"
    assert decode(encode(nested(100))) == nested(100)
    with pytest.raises(LimitExceeded, match="max_depth=100"):
        encode(nested(101))
    with pytest.raises(LimitExceeded, match="max_depth=1,"):
        encode([[1]], limits=CodecLimits(max_depth=1))


def test_depth_is_measured_in_long_heads_too() -> None:
    value = [nested(99), ["x" * 5000]]
    assert decode(encode(value)) == value
    with pytest.raises(LimitExceeded, match="max_depth=99"):
        decode(encode(value), limits=CodecLimits(max_depth=99))


def test_the_deepest_limit_can_be_walked() -> None:
    limits = CodecLimits(max_depth=256)
    assert decode(encode(nested(256), limits=limits), limits=limits) == nested(256)
    value: Any = ()
    for _ in range(255):
        value = (value,)
    assert essence(decode(encode(value, limits=limits), limits=limits)) == essence(value)


def test_a_value_that_contains_itself_is_too_deep() -> None:
    ring: list[Any] = []
    ring.append(ring)
    loop: dict[str, Any] = {}
    loop["me"] = (loop,)
    for value in (ring, loop):
        with pytest.raises(LimitExceeded, match="contains itself"):
            encode(value)


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ([1, 2, 3], 3),
        ({"a": 1, "b": [1, 2]}, 6),
        ((1, 2), 3),
        ({(1, 2): 3}, 6),
        ([Point(1, 2)], 7),
        ([[]] * 5, 5),
        (["x" * 40, 1.5, 2**40, -(2**40), 2**80, b"y" * 300, "z" * 300, "w" * 70000], 8),
        ([date(2020, 1, 1), timedelta(1), UUID(int=0), 1.5j, datetime(2020, 1, 1)], 5),
        ([bytearray(size) for size in (0, 1, 2, 3, 4, 8, 16, 17, 300, 60000)], 10),
        ([1.5] * 1000 + list(range(1000)), 2000),
        ({str(n): (n,) for n in range(20)}, 80),
        (np.zeros((2, 3)), 6),
        ([np.float32(1), range(5), Colour.RED, Right.READ], 4 + 3 + 4 + 3 + 3),
        ([b"x" * 65536], 4),
    ],
    ids=str,
)
def test_items_have_a_limit(value: Any, items: int) -> None:
    """A list counts its elements, a dict two for each pair, a mark or a name one."""
    just, fewer = CodecLimits(max_items=items), CodecLimits(max_items=items - 1)
    encoded = encode(value, limits=just)
    assert essence(decode(encoded, limits=just)) == essence(value)
    for call in (lambda: encode(value, limits=fewer), lambda: decode(encoded, limits=fewer)):
        with pytest.raises(LimitExceeded) as caught:
            call()
        assert (caught.value.limit, caught.value.allowed) == ("max_items", items - 1)


def test_bytes_have_a_limit() -> None:
    for value in (
        "x" * 100,
        [b"y" * 100],
        b"z" * 100_000,
        np.zeros(1000),
        [np.zeros(600)] * 3,
        np.zeros(9999)[::2],
    ):
        encoded = encode(value)
        just, fewer = CodecLimits(max_bytes=encoded.nbytes), CodecLimits(max_bytes=encoded.nbytes - 1)
        assert essence(decode(encode(value, limits=just), limits=just)) == essence(value)
        for call in (
            lambda value=value, limits=fewer: encode(value, limits=limits),
            lambda encoded=encoded, limits=fewer: decode(encoded, limits=limits),
        ):
            with pytest.raises(LimitExceeded) as caught:
                call()
            assert caught.value.limit == "max_bytes"


def test_an_array_that_is_too_large_is_not_copied_first() -> None:
    with pytest.raises(LimitExceeded) as caught:
        encode(np.broadcast_to(np.float64(1), (2**40,)))
    assert (caught.value.limit, caught.value.got) == ("max_bytes", 2**43)


def test_limits_are_checked_when_they_are_made() -> None:
    for bad in (
        {"max_depth": 0},
        {"max_depth": 257},
        {"max_items": True},
        {"max_bytes": 1.5},
        {"max_bytes": -1},
    ):
        with pytest.raises(BadValue, match=next(iter(bad))):
            CodecLimits(**bad)  # type: ignore[arg-type]  # the mistakes under test


def test_a_head_need_not_be_bytes() -> None:
    head = encode({"a": (1, 2)}).head
    for given in (bytearray(head), memoryview(head)):
        assert decode(Encoded(given)) == {"a": (1, 2)}  # type: ignore[arg-type]  # what a transport may hold


def test_a_timestamp_of_another_msgpack_is_a_datetime() -> None:
    assert decode(Encoded(b"\xd6\xff\x00\x00\x00\x01")) == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_the_public_names() -> None:
    assert sorted(codec.__all__) == [
        "Buffer",
        "CodecLimits",
        "DEFAULT_LIMITS",
        "Encoded",
        "decode",
        "encode",
        "nbytes_of",
        "register",
        "unregister",
    ]
