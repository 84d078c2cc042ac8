"""What frames carry: hello, requests, answers, errors, as msgpack, checked when they come in.

A request's envelope is `[op, pool, route, arguments]`; `route` is nil, `["to", peer]` (relay this to a peer of
yours) or `["from", id, name]` (I relay this for that peer). Records stay encoded: their heads travel in the envelope
as they are, their buffers as the message's buffers, `counts` saying how many belong to each head (nil: none has any).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, cast

import msgpack

from .. import errors
from ..codec import Buffer, Encoded
from ..codec.heads import prove
from ..errors import BadValue, LailaError, ProtocolError, RemoteError

VERSION_FIRST = 1
VERSION_LAST = 1
_TEXT = 4000
_LONG = 64 * 1024
MAX_ITEMS = 3_000_100
"""Values in one envelope: id, head and count of a million entries. Bounds what a short envelope can unfold to."""


class Op(IntEnum):
    MEMORIZE = 1
    REMEMBER = 2
    FORGET = 3
    EXISTS = 4
    KEYS = 5
    POOLS = 6
    PEERS = 7
    INVOKE = 8


WRITES = frozenset({Op.MEMORIZE, Op.FORGET, Op.INVOKE})
_TEXTS = frozenset({str})
_BYTES = frozenset({bytes})
_OPS = {int(op): op for op in Op}


class Hello(NamedTuple):
    """What each side says of itself first. `instance` is new at each start of a node."""

    node_id: str
    name: str
    instance: str
    listen: str = ""
    software: str = ""
    first: int = VERSION_FIRST
    last: int = VERSION_LAST
    max_requests: int = 1024
    max_body: int = 0


class Call(NamedTuple):
    """A request, unpacked. `arguments` is checked by the op's own reader below."""

    op: Op
    pool: str | None
    route: list[str] | None
    arguments: Any


def pack(value: Any) -> bytes:
    """msgpack of plain values that this module composed itself."""
    return cast(bytes, msgpack.packb(value))


def unpack(data: bytes) -> Any:
    """The one msgpack value in `data`. Raises ProtocolError."""
    try:
        if len(data) > _LONG:
            prove(data, MAX_ITEMS)
        return msgpack.unpackb(data, strict_map_key=False, max_ext_len=0)
    except Exception as error:
        raise ProtocolError(f"the other side sent an envelope that is not msgpack ({error})") from error


def pack_hello(hello: Hello) -> bytes:
    return pack(
        {
            "v": [hello.first, hello.last],
            "id": hello.node_id,
            "name": hello.name[:200],
            "instance": hello.instance,
            "listen": hello.listen[:300],
            "software": hello.software[:100],
            "max_requests": hello.max_requests,
            "max_body": hello.max_body,
        }
    )


def unpack_hello(payload: bytes) -> Hello:
    """Raises ProtocolError. Unknown keys are ignored, so that later versions can say more."""
    value = unpack(payload)
    try:
        first, last = value["v"]
        hello = Hello(
            node_id=value["id"],
            name=value["name"],
            instance=value["instance"],
            listen=value.get("listen", ""),
            software=value.get("software", ""),
            first=first,
            last=last,
            max_requests=value["max_requests"],
            max_body=value["max_body"],
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ProtocolError("the other side's hello lacks a field") from error
    texts = (hello.node_id, hello.name, hello.instance, hello.listen, hello.software)
    numbers = (hello.first, hello.last, hello.max_requests, hello.max_body)
    if not all(type(text) is str for text in texts) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ProtocolError("the other side's hello has a field of the wrong type")
    if not hello.max_requests:
        raise ProtocolError("the other side's hello allows no requests")
    return hello


def pack_goodbye(code: str, text: str) -> bytes:
    return pack([code, text[:1000]])


def unpack_goodbye(payload: bytes) -> tuple[str, str]:
    value = unpack(payload)
    if not (type(value) is list and len(value) == 2 and all(type(part) is str for part in value)):
        raise ProtocolError("the other side's goodbye cannot be read")
    return value[0], value[1]


# ---- requests ----


def pack_call(op: int, pool: str | None, arguments: Any, route: list[str] | None = None) -> bytes:
    try:
        return cast(bytes, msgpack.packb((op, pool, route, arguments)))
    except UnicodeEncodeError as error:
        raise BadValue(f"an id or a pool's nickname is no valid Unicode: {error.reason}") from None


def unpack_call(envelope: bytes) -> Call:
    """Raises ProtocolError for what is no request of this version."""
    value = unpack(envelope)
    if type(value) is not list or len(value) != 4:
        raise ProtocolError("the other side sent a request that cannot be read")
    op = _OPS.get(value[0]) if type(value[0]) is int else None
    if op is None:
        raise ProtocolError(f"the other side asked for operation {value[0]!r}, which does not exist")
    pool, route = value[1], value[2]
    if pool is not None and type(pool) is not str:
        raise ProtocolError("the other side named a pool by something that is no text")
    if route is not None and not (
        type(route) is list and 2 <= len(route) <= 3 and all(type(part) is str for part in route)
    ):
        raise ProtocolError("the other side sent a route that cannot be read")
    return Call(op, pool, route, value[3])


def ids_of(arguments: Any) -> list[str]:
    """The ids of a REMEMBER or EXISTS."""
    if type(arguments) is not list or not _TEXTS.issuperset(map(type, arguments)):
        raise ProtocolError("the other side sent ids that are no list of texts")
    return arguments


def forget_of(arguments: Any) -> tuple[list[str], bool]:
    """The ids of a FORGET, and whether missing ones are no error."""
    if type(arguments) is not list or len(arguments) != 2 or type(arguments[1]) is not bool:
        raise ProtocolError("the other side sent a forget that cannot be read")
    return ids_of(arguments[0]), arguments[1]


class Answer(NamedTuple):
    """What a service answers: a map of plain values, and buffers."""

    words: Mapping[str, Any]
    buffers: Sequence[Buffer] = ()


def question_of(arguments: Any) -> dict[str, Any]:
    """The map that an INVOKE hands to a service."""
    if type(arguments) is not dict or not _TEXTS.issuperset(map(type, arguments)):
        raise ProtocolError("the other side asked a service with something that is no map of named values")
    return arguments


def items_of(arguments: Any, buffers: Sequence[Buffer]) -> list[tuple[str, Encoded]]:
    """The (id, record) pairs of a MEMORIZE."""
    if type(arguments) is not list or len(arguments) != 3:
        raise ProtocolError("the other side sent entries that cannot be read")
    keys = ids_of(arguments[0])
    records = join_records(arguments[1], arguments[2], buffers)
    if len(keys) != len(records):
        raise ProtocolError("the other side sent more ids than entries, or fewer")
    return list(zip(keys, records, strict=True))


def split_records(records: Sequence[Encoded]) -> tuple[list[bytes], list[int] | None, list[Buffer]]:
    """Heads, counts and buffers, as they travel."""
    heads = [record.head for record in records]
    if not any(record.buffers for record in records):
        return heads, None, []
    return (
        heads,
        [len(record.buffers) for record in records],
        [buffer for record in records for buffer in record.buffers],
    )


def join_records(heads: Any, counts: Any, buffers: Sequence[Buffer]) -> list[Encoded]:
    """The records again. Raises ProtocolError when heads, counts and buffers disagree."""
    if type(heads) is not list or not _BYTES.issuperset(map(type, heads)):
        raise ProtocolError("the other side sent entries without heads")
    if counts is None and not buffers:
        return [Encoded(head) for head in heads]
    if type(counts) is not list or len(counts) != len(heads):
        raise ProtocolError("the other side did not say whose the buffers are")
    records, start = [], 0
    for head, count in zip(heads, counts, strict=True):
        if type(count) is not int or count < 0:
            raise ProtocolError("the other side sent a negative number of buffers")
        records.append(Encoded(head, tuple(buffers[start : start + count])))
        start += count
    if start != len(buffers):
        raise ProtocolError("the other side sent buffers that belong to no entry")
    return records


# ---- errors ----

_CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, LailaError)
}


def pack_error(error: BaseException) -> bytes:
    """An error's class and fields; one that is not ours goes as RemoteError, by name and text."""
    if not isinstance(error, LailaError):
        error = RemoteError(f"{type(error).__name__}: {error}", kind=type(error).__name__)
    kept = {}
    for name, value in error.fields().items():
        kept[name] = (
            value[:_TEXT] if isinstance(value, str) else value[:20] if isinstance(value, list) else value
        )
    return cast(bytes, msgpack.packb([type(error).__name__, kept], unicode_errors="replace"))


def unpack_error(envelope: bytes) -> LailaError:
    """The same class again, whatever the other side sent."""
    try:
        code, fields = unpack(envelope)
        kind = _CLASSES.get(code)
        if kind is None:
            return RemoteError(str(fields.get("message", code))[:_TEXT], kind=str(code)[:200])
        if type(fields.get("message")) is not str:
            raise ProtocolError("an error without words")
        return kind(**{str(name): value for name, value in fields.items()})
    except (ProtocolError, TypeError, ValueError, AttributeError):
        return RemoteError("the other node failed and its error cannot be read", kind="unreadable")
