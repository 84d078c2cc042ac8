"""What a session reports about bytes that came in."""

from __future__ import annotations

from typing import NamedTuple

from ..codec import Buffer
from .frames import Kind
from .messages import Hello


class HelloReceived(NamedTuple):
    hello: Hello


class Request(NamedTuple):
    request_id: int
    envelope: bytes
    buffers: tuple[Buffer, ...] = ()


class Reply(NamedTuple):
    request_id: int
    envelope: bytes
    buffers: tuple[Buffer, ...] = ()


class Failure(NamedTuple):
    request_id: int
    envelope: bytes


class BodyOffered(NamedTuple):
    """Answer with `accept_body` or `refuse_body`."""

    kind: Kind
    request_id: int
    size: int


class BodyReceived(NamedTuple):
    """`size` bytes that were accepted are here (or given up); the Request or Reply follows as its own event."""

    size: int


class Cancelled(NamedTuple):
    request_id: int


class Pong(NamedTuple):
    token: bytes


class Goodbye(NamedTuple):
    code: str
    text: str


Event = HelloReceived | Request | Reply | Failure | BodyOffered | BodyReceived | Cancelled | Pong | Goodbye
