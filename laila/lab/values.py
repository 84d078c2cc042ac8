"""Values that a lab stores, made from a few JSON words on either side, and their fingerprints.

A value never travels through the lab itself: the client that stores it makes it from its description, the
client that reads it answers with the fingerprint of what it got. The fingerprint covers type and content
and is computed without the codec that is being tested: equal fingerprints mean the same type all the way
down, and the same bytes.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import pathlib
import random
import struct
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from laila.errors import BadValue

MAX_BYTES = 1 << 30


class Colour(enum.Enum):
    """An enum as a user would register it."""

    RED = 1
    GREEN = "green"


@dataclass(frozen=True)
class Point:
    """A dataclass as a user would register it."""

    x: float
    y: float
    label: str | None = None


_EAST = dt.timezone(dt.timedelta(hours=5, minutes=45), "NPT")

PLAIN: Mapping[str, Callable[[], Any]] = {
    "none": lambda: None,
    "true": lambda: True,
    "false": lambda: False,
    "zero": lambda: 0,
    "int": lambda: -42,
    "int64": lambda: 2**63 - 1,
    "uint64": lambda: 2**64 - 1,
    "int-huge": lambda: -(7**400),
    "float": lambda: 0.1,
    "float-negative-zero": lambda: -0.0,
    "float-nan": lambda: float("nan"),
    "float-inf": lambda: float("-inf"),
    "float-denormal": lambda: 5e-324,
    "str": lambda: "naïve — 日本語 🦉",
    "str-empty": lambda: "",
    "str-nul": lambda: "a\0b",
    "bytes": lambda: bytes(range(256)),
    "bytes-empty": lambda: b"",
    "list": lambda: [1, "two", [3.0, [None]]],
    "tuple": lambda: (1, ("two", ()), [3]),
    "set": lambda: {1, "two", (3, 4)},
    "frozenset": lambda: frozenset({b"x", frozenset({1})}),
    "dict": lambda: {"a": 1, "b": {"c": [True]}},
    "dict-keys": lambda: {
        1: "int",
        (2, "t"): "tuple",
        None: "none",
        b"b": "bytes",
        frozenset({1}): "frozenset",
    },
    "complex": lambda: complex(-0.0, 2.5),
    "datetime": lambda: dt.datetime(2024, 2, 29, 23, 59, 59, 999999),
    "datetime-utc": lambda: dt.datetime(1999, 12, 31, tzinfo=dt.UTC),
    "datetime-offset": lambda: dt.datetime(2024, 2, 29, 12, 0, tzinfo=_EAST),
    "datetime-zone": lambda: dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("UTC")),
    "date": lambda: dt.date(1, 1, 1),
    "time": lambda: dt.time(1, 2, 3, 4),
    "timedelta": lambda: dt.timedelta(days=-3, microseconds=1),
    "uuid": lambda: uuid.UUID(int=0x1234567890ABCDEF1234567890ABCDEF),
    "decimal": lambda: decimal.Decimal("-1.2300E+40"),
    "decimal-nan": lambda: decimal.Decimal("NaN"),
    "path": lambda: pathlib.PurePosixPath("/var/lib/laila/ä"),
    "enum": lambda: Colour.GREEN,
    "dataclass": lambda: Point(1.5, -2.0, "here"),
    "nested": lambda: {"points": [Point(0.0, 1.0), (Colour.RED, {uuid.UUID(int=1): b"\0"})]},
}


def _numpy() -> Any:
    import numpy as np  # an extra of its own, loaded only where arrays are made

    return np


ARRAYS: Mapping[str, Callable[[], Any]] = {
    "array-float64": lambda: _numpy().linspace(0, 1, 1000).reshape(10, 100),
    "array-fortran": lambda: _numpy().asfortranarray(_numpy().arange(12, dtype="i4").reshape(3, 4)),
    "array-strided": lambda: _numpy().arange(100, dtype="u2")[::7],
    "array-0d": lambda: _numpy().array(7.5, dtype="f4"),
    "array-empty": lambda: _numpy().empty((0, 3), dtype="c16"),
    "array-bool": lambda: _numpy().array([True, False, True]),
    "array-big-endian": lambda: _numpy().arange(5, dtype=">i8"),
    "array-str": lambda: _numpy().array(["a", "ßß"]),
    "array-datetime": lambda: _numpy().array(["2024-02-29", "NaT"], dtype="M8[s]"),
    "array-record": lambda: _numpy().array([(1, 2.5), (3, -0.0)], dtype=[("n", "i2"), ("v", "f8")]),
    "scalar-float32": lambda: _numpy().float32(0.1),
    "scalar-int8": lambda: _numpy().int8(-128),
    "scalar-bool": lambda: _numpy().bool_(True),
    "scalar-datetime": lambda: _numpy().datetime64("2024-02-29T12:00:00", "ms"),
}

TYPED: tuple[str, ...] = (*PLAIN, *ARRAYS)
"""Names of all typed values."""


def make(words: Mapping[str, Any]) -> Any:
    """The value that is meant: `{"kind": "typed", "name": …}`, `{"kind": "small", "seed": …}`, or
    `{"kind": "array" | "bytes", "seed": …, "nbytes": …}`. Raises BadValue for anything else."""
    kind, seed = words.get("kind"), words.get("seed", 0)
    if kind == "typed":
        maker = PLAIN.get(words.get("name", "")) or ARRAYS.get(words.get("name", ""))
        if maker is None:
            raise BadValue(f"no typed value {words.get('name')!r}; there are {', '.join(TYPED)}")
        return maker()
    if kind == "small":
        chance = random.Random(seed)  # noqa: S311  repeatable on purpose
        return {
            "seed": seed,
            "text": f"entry {seed}",
            "noise": chance.randbytes(24),
            "weight": chance.random(),
        }
    if kind not in ("array", "bytes"):
        raise BadValue(f"no kind of value {kind!r}; there are typed, small, array, bytes")
    nbytes = words.get("nbytes", 1024)
    if not isinstance(nbytes, int) or not 0 <= nbytes <= MAX_BYTES:
        raise BadValue(f"nbytes must be 0 to {MAX_BYTES}, not {nbytes!r}")
    if kind == "array":
        return _numpy().random.default_rng(seed).random(nbytes // 8)
    return random.Random(seed).randbytes(nbytes)  # noqa: S311  repeatable on purpose


def fingerprint(value: Any) -> str:
    """SHA-256 over type and content, 32 hex digits. Not the codec's bytes: its judge must not be itself."""
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()[:32]


def _feed(update: Callable[[Any], None], value: Any) -> None:
    kind = type(value)
    tag = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__ == "numpy":
        _feed_numpy(update, value)
    elif isinstance(value, enum.Enum):
        _put(update, tag, value.name)
    elif dataclasses.is_dataclass(value):
        _put(update, tag, "")
        for field in dataclasses.fields(value):
            _put(update, "field", field.name)
            _feed(update, getattr(value, field.name))
    elif kind in (list, tuple):
        _put(update, tag, str(len(value)))
        for item in value:
            _feed(update, item)
    elif kind in (set, frozenset):
        _put(update, tag, ",".join(sorted(fingerprint(item) for item in value)))
    elif kind is dict:
        _put(update, tag, str(len(value)))
        for key, item in value.items():
            _feed(update, key)
            _feed(update, item)
    elif kind in (bytes, bytearray):
        _put(update, tag, str(len(value)))
        update(value)
    else:
        _put(update, tag, _words_of(value))


def _words_of(value: Any) -> str:
    """Text that tells two scalars apart, sign of zero and fold of a clock change included."""
    if isinstance(value, float):
        return struct.pack(">d", value).hex()
    if isinstance(value, complex):
        return struct.pack(">dd", value.real, value.imag).hex()
    if isinstance(value, dt.datetime | dt.time):
        return f"{value.isoformat()} {value.tzinfo!r} {value.fold}"
    return hex(value) if isinstance(value, int) else str(value)


def _feed_numpy(update: Callable[[Any], None], value: Any) -> None:
    np = _numpy()
    scalar = isinstance(value, np.generic)
    array = np.asarray(value)
    # `descr` spells out byte order and fields; the class tells a scalar from a 0-d array
    _put(update, "scalar" if scalar else "array", f"{array.dtype.str} {array.dtype.descr} {array.shape}")
    contiguous = np.ascontiguousarray(array)
    update(contiguous.reshape(-1).view(np.uint8).data if contiguous.nbytes else b"")


def _put(update: Callable[[Any], None], tag: str, text: str) -> None:
    data = f"{tag}\0{text}".encode("utf-8", "surrogatepass")
    update(struct.pack(">Q", len(data)))
    update(data)
