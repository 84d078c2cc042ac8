"""Bodies: the large part of a message, streamed between the sender's buffers and memory that the receiver owns.

A body never passes through an intermediate copy: chunks leave from views of the sender's buffers and arrive in the
buffers that the value will live in.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..buffers import allocate
from ..codec import Buffer
from ..errors import ProtocolError
from .frames import BODY_HEAD


def table(envelope: bytes, sizes: Sequence[int]) -> bytes:
    """What stands before the buffers of a message: their number, their sizes, the envelope."""
    return BODY_HEAD.pack(len(sizes), len(envelope)) + struct.pack(f">{len(sizes)}Q", *sizes) + envelope


def parse_table(payload: bytes | memoryview) -> tuple[list[int], bytes, int]:
    """Sizes, envelope, and where the table ends. Raises ProtocolError."""
    if len(payload) < BODY_HEAD.size:
        raise ProtocolError("a message with a body is too short to describe it")
    count, length = BODY_HEAD.unpack_from(payload)
    end = BODY_HEAD.size + 8 * count + length
    if end > len(payload):
        raise ProtocolError("a message with a body is shorter than it says")
    sizes = list(struct.unpack_from(f">{count}Q", payload, BODY_HEAD.size))
    return sizes, bytes(payload[end - length : end]), end


class OutgoingBody:
    """Buffers on their way out, in chunks."""

    __slots__ = ("_index", "_offset", "_views", "kind", "left", "moves", "request_id", "seen")

    def __init__(self, kind: int, request_id: int, buffers: Sequence[Buffer]) -> None:
        self.kind = kind
        self.request_id = request_id
        self._views = [view for buffer in buffers if (view := memoryview(buffer).cast("B")).nbytes]
        self._index = 0
        self._offset = 0
        self.moves = self.seen = 0
        self.left = sum(view.nbytes for view in self._views)

    def take(self, most: int) -> memoryview:
        """The next bytes, at most `most`, never across two buffers; empty at the end."""
        if not self.left:
            return memoryview(b"")
        view = self._views[self._index]
        piece = view[self._offset : self._offset + most]
        self._offset += piece.nbytes
        self.left -= piece.nbytes
        if self._offset == view.nbytes:
            self._views[self._index] = memoryview(b"")  # let go of what was sent
            self._index += 1
            self._offset = 0
        return piece


class IncomingBody:
    """Memory being filled. `accept` allocates it; until then no byte may come."""

    __slots__ = (
        "_index",
        "_offset",
        "_views",
        "accepted",
        "discard",
        "envelope",
        "left",
        "moves",
        "request_id",
        "seen",
        "size",
        "sizes",
        "tabled",
    )

    def __init__(
        self, request_id: int, envelope: bytes, sizes: Sequence[int], *, size: int, table_size: int = 0
    ) -> None:
        self.request_id = request_id
        self.envelope = envelope
        self.sizes = sizes
        self.size = size
        self.left = size
        self.tabled = table_size
        self.accepted = False
        self.discard = False
        self.moves = self.seen = 0
        self._views: list[memoryview] = []
        self._index = 0
        self._offset = 0

    def accept(self) -> None:
        self.accepted = True
        if self.tabled:
            self._views = [allocate(self.tabled)]
        else:
            self._views = [allocate(size) for size in self.sizes]
        self._skip_full()

    def view(self, most: int) -> memoryview:
        """Where the next bytes go, at most `most`; never empty while `left` is above 0."""
        return self._views[self._index][self._offset : self._offset + most]

    def advance(self, count: int) -> None:
        """`count` bytes were written at `view`."""
        self._offset += count
        self.left -= count
        if self._offset == self._views[self._index].nbytes:
            self._skip_full()

    def skip(self, count: int) -> None:
        """`count` bytes came for a body that nobody wants any more."""
        self.left -= count

    def fill(self, data: memoryview) -> None:
        """Copy in bytes that arrived together with others."""
        while data.nbytes:
            view = self.view(data.nbytes)
            count = view.nbytes
            view[:] = data[:count]
            self.advance(count)
            data = data[count:]

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return tuple(self._views)

    def _skip_full(self) -> None:
        while self._index < len(self._views) and self._offset == self._views[self._index].nbytes:
            self._index += 1
            self._offset = 0
            if self.tabled and self._index == 1:
                self._read_table()

    def _read_table(self) -> None:
        sizes, envelope, end = parse_table(self._views[0])
        if end != self.tabled or sum(sizes) != self.left:
            raise ProtocolError("a message's table does not agree with its announced size")
        self.tabled = 0
        self.sizes, self.envelope = sizes, envelope
        self._views = [allocate(size) for size in sizes]
        self._index = 0
