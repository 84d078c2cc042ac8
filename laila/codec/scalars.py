"""Scalars: values without parts, each one msgpack extension. Docs: docs/codec.md.

Strategy: a closed table in each direction. Encoders are found by exact type, so a subclass is never
silently taken for its base. Modules that a light import should not pull in (decimal, zoneinfo, pathlib) are
only looked at when somebody else imported them: before that, no value of their types can exist.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any
from uuid import UUID

from msgpack import ExtType

from laila.codec.heads import CODE_INT
from laila.errors import Corrupt, UnsupportedType

CODE_COMPLEX, CODE_DATETIME, CODE_DATE, CODE_TIME, CODE_TIMEDELTA = 2, 3, 4, 5, 6
CODE_UUID, CODE_DECIMAL, CODE_PATH, CODE_BYTEARRAY = 7, 8, 9, 10

_COMPLEX = struct.Struct(">dd")
_DATETIME = struct.Struct(">HBBBBBIB")  # year month day hour minute second microsecond flags
_DATE = struct.Struct(">HBB")
_TIME = struct.Struct(">BBBIB")  # hour minute second microsecond flags
_TIMEDELTA = struct.Struct(">iii")  # days seconds microseconds
_OFFSET = struct.Struct(">q")  # microseconds east of UTC

# Flags of a datetime or time: bit 0 is fold, the rest the kind of its zone, whose description follows.
_NAIVE, _UTC, _FIXED, _NAMED, _KEYED = range(5)

_DECIMAL_TEXT = re.compile(rb"-?(?:[0-9]+(?:\.[0-9]*)?(?:E[+-]?[0-9]+)?|Infinity|s?NaN[0-9]*)")
_ZONE_KEY = re.compile(r"(?!/)(?:(?!\.\.?(?:/|$))[A-Za-z0-9_+.-]+(?:/(?=.)|$))+")
_PATH_KINDS = {"PurePosixPath": b"x", "PureWindowsPath": b"w", "PosixPath": b"p", "WindowsPath": b"p"}


def encoder_for(kind: type) -> Callable[[Any], ExtType] | None:
    """How to encode exactly this type, or None when it is not a scalar of this module."""
    found = ENCODERS.get(kind)
    if found is not None:
        return found
    name = kind.__name__
    if name == "Decimal" and _is_from("decimal", kind):
        return _encode_decimal
    if name in _PATH_KINDS and _is_from("pathlib", kind):
        return _encode_path
    return None


def _is_from(module: str, kind: type) -> bool:
    return getattr(sys.modules.get(module), kind.__name__, None) is kind


def _encode_complex(value: complex) -> ExtType:
    return ExtType(CODE_COMPLEX, _COMPLEX.pack(value.real, value.imag))


def _encode_date(value: date) -> ExtType:
    return ExtType(CODE_DATE, _DATE.pack(value.year, value.month, value.day))


def _encode_datetime(value: datetime) -> ExtType:
    zone, text = _describe_zone(value.tzinfo)
    stamp = _DATETIME.pack(
        value.year,
        value.month,
        value.day,
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
        zone << 1 | value.fold,
    )
    return ExtType(CODE_DATETIME, stamp + text)


def _encode_time(value: time) -> ExtType:
    zone, text = _describe_zone(value.tzinfo)
    stamp = _TIME.pack(value.hour, value.minute, value.second, value.microsecond, zone << 1 | value.fold)
    return ExtType(CODE_TIME, stamp + text)


def _encode_timedelta(value: timedelta) -> ExtType:
    return ExtType(CODE_TIMEDELTA, _TIMEDELTA.pack(value.days, value.seconds, value.microseconds))


def _encode_uuid(value: UUID) -> ExtType:
    return ExtType(CODE_UUID, value.bytes)


def _encode_decimal(value: Any) -> ExtType:
    return ExtType(CODE_DECIMAL, str(value).encode("ascii"))


def _encode_path(value: Any) -> ExtType:
    kind = _PATH_KINDS[type(value).__name__]
    text = value.as_posix() if kind == b"p" else str(value)
    return ExtType(CODE_PATH, kind + text.encode("utf-8", "surrogatepass"))


ENCODERS: dict[type, Callable[[Any], ExtType]] = {
    complex: _encode_complex,
    datetime: _encode_datetime,
    date: _encode_date,
    time: _encode_time,
    timedelta: _encode_timedelta,
    UUID: _encode_uuid,
}


def _describe_zone(zone: tzinfo | None) -> tuple[int, bytes]:
    if zone is None:
        return _NAIVE, b""
    if zone is UTC:
        return _UTC, b""
    if type(zone) is timezone:
        offset = _OFFSET.pack(zone.utcoffset(None) // timedelta(microseconds=1))
        if repr(zone) == repr(timezone(zone.utcoffset(None))):
            return _FIXED, offset
        return _NAMED, offset + zone.tzname(None).encode("utf-8", "surrogatepass")
    if type(zone).__name__ == "ZoneInfo" and _is_from("zoneinfo", type(zone)):
        key = getattr(zone, "key", None)
        if key is not None:
            return _KEYED, key.encode("utf-8", "surrogatepass")
    name = type(zone).__qualname__
    raise UnsupportedType(
        f"is a {name}, which is neither a datetime.timezone nor a zoneinfo.ZoneInfo with a key: "
        "use datetime.astimezone() with one of those",
        path=".tzinfo",
        type_name=name,
    )


def decode_scalar(code: int, data: bytes) -> Any:
    """The value of one extension. Raises Corrupt, or what the type's constructor raises."""
    decoder = _DECODERS.get(code)
    if decoder is None:
        raise Corrupt(f"no value has extension code {code}")
    return decoder(data)


def _decode_int(data: bytes) -> int:
    if len(data) < 9:
        raise Corrupt("a long int that would fit into 64 bits")
    return int.from_bytes(data, "big", signed=True)


def _decode_complex(data: bytes) -> complex:
    return complex(*_COMPLEX.unpack(data))


def _decode_datetime(data: bytes) -> datetime:
    year, month, day, hour, minute, second, micro, flags = _DATETIME.unpack_from(data)
    zone = _rebuild_zone(flags >> 1, data[_DATETIME.size :])
    return datetime(year, month, day, hour, minute, second, micro, zone, fold=flags & 1)


def _decode_date(data: bytes) -> date:
    return date(*_DATE.unpack(data))


def _decode_time(data: bytes) -> time:
    hour, minute, second, micro, flags = _TIME.unpack_from(data)
    zone = _rebuild_zone(flags >> 1, data[_TIME.size :])
    return time(hour, minute, second, micro, zone, fold=flags & 1)


def _decode_timedelta(data: bytes) -> timedelta:
    return timedelta(*_TIMEDELTA.unpack(data))


def _decode_uuid(data: bytes) -> UUID:
    return UUID(bytes=data)


def _decode_decimal(data: bytes) -> Any:
    from decimal import Decimal

    if not _DECIMAL_TEXT.fullmatch(data):  # Decimal() itself also takes underscores, blanks and other digits
        raise Corrupt("a Decimal whose text is not a number")
    return Decimal(data.decode("ascii"))


def _decode_path(data: bytes) -> Any:
    import pathlib

    kinds = {b"x": pathlib.PurePosixPath, b"w": pathlib.PureWindowsPath, b"p": pathlib.Path}
    kind = kinds.get(data[:1])
    if kind is None:
        raise Corrupt("a path of an unknown kind")
    return kind(data[1:].decode("utf-8", "surrogatepass"))


_DECODERS: dict[int, Callable[[bytes], Any]] = {
    CODE_INT: _decode_int,
    CODE_COMPLEX: _decode_complex,
    CODE_DATETIME: _decode_datetime,
    CODE_DATE: _decode_date,
    CODE_TIME: _decode_time,
    CODE_TIMEDELTA: _decode_timedelta,
    CODE_UUID: _decode_uuid,
    CODE_DECIMAL: _decode_decimal,
    CODE_PATH: _decode_path,
    CODE_BYTEARRAY: bytearray,
}


def _rebuild_zone(kind: int, text: bytes) -> tzinfo | None:
    if kind in (_FIXED, _NAMED):
        offset = timedelta(microseconds=_OFFSET.unpack_from(text)[0])
        name = text[_OFFSET.size :]
        if kind == _NAMED:
            return timezone(offset, name.decode("utf-8", "surrogatepass"))
        text = name
        zone: tzinfo | None = timezone(offset)
    elif kind == _KEYED:
        return _find_zone(text.decode("utf-8"))
    elif kind in (_NAIVE, _UTC):
        zone = UTC if kind == _UTC else None
    else:
        raise Corrupt(f"a zone of unknown kind {kind}")
    if text:
        raise Corrupt("bytes follow the end of a zone")
    return zone


def _find_zone(key: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    if len(key) > 255 or not _ZONE_KEY.fullmatch(key):  # it becomes a file name
        raise Corrupt("a time zone key that cannot be one")
    try:
        return ZoneInfo(key)
    except (KeyError, ValueError, OSError) as error:
        raise Corrupt(f"the time zone {key!r} is not known on this machine (pip install tzdata)") from error
