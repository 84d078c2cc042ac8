"""Frames: a fixed header, then a payload.

    0      4     5      6         8          12
    | u32  | u8  | u8   | u16     | u32      | payload ...
    length kind  flags  zero      request id

`length` counts the payload. Numbers are big-endian. Frames other than BODY frames are small (MAX_FRAME) and are parsed
whole; the payload of a BODY frame is up to MAX_CHUNK and is streamed into the buffer where it will stay.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

HEADER = struct.Struct(">IBBHI")
HEADER_SIZE = HEADER.size
BODY_HEAD = struct.Struct(">HI")
"""Starts the payload of a REQUEST or REPLY that has the BODY flag: number of buffers, envelope bytes."""

MAX_FRAME = 64 * 1024
MAX_CHUNK = 256 * 1024
CHUNK = 64 * 1024
"""What this side sends: small enough to stay in the processor's cache between encryption and socket."""
MAX_INLINE = 32 * 1024
"""Envelope and buffers up to this travel in one frame; larger ones ask for credit first."""
MAX_BUFFERS = 0xFFFF
MAX_TABLE = 512 * 1024 * 1024
"""Envelope and sizes of one message; a million entries of 300 bytes are some 400 MB."""
MAX_HELLO = 4096
MAX_REQUEST_ID = 0xFFFF_FFFF


class Kind(IntEnum):
    HELLO = 1
    REQUEST = 2
    REPLY = 3
    ERROR = 4
    REQUEST_BODY = 5
    REPLY_BODY = 6
    REQUEST_CREDIT = 7
    REPLY_CREDIT = 8
    CANCEL = 9
    PING = 10
    PONG = 11
    GOODBYE = 12


class Flag(IntFlag):
    BODY = 1
    """Buffers belong to this message; the payload starts with BODY_HEAD and their sizes (u64 each)."""
    INLINE = 2
    """The buffers follow in this very frame."""
    TABLE = 4
    """Sizes and envelope are too large for a frame: they are the body themselves, as a single buffer."""


def header(kind: int, request_id: int, length: int, flags: int = 0) -> bytes:
    """Twelve bytes."""
    return HEADER.pack(length, kind, flags, 0, request_id)


def frame(kind: int, request_id: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """A whole small frame."""
    return HEADER.pack(len(payload), kind, flags, 0, request_id) + payload
