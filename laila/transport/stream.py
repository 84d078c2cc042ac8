"""TLS over a non-blocking socket, through memory buffers.

Why not an SSLSocket: OpenSSL then makes two reads per 16 KiB record and one write per record; here one system call
moves a quarter of a megabyte. And a plain socket can be polled cheaply, which an SSLSocket cannot.
Not thread safe: the link's lock guards it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

from ..codec import Buffer
from ..wire.events import Event
from ..wire.session import Session

_EMPTY = memoryview(b"")


class TlsStream:
    """Ciphertext on one side, a session on the other."""

    __slots__ = ("_inbound", "_outbound", "_socket", "_tls", "_unsent", "established", "sent")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server: bool) -> None:
        self._socket = sock
        self._inbound = ssl.MemoryBIO()
        self._outbound = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._inbound, self._outbound, server_side=server)
        self._unsent = _EMPTY
        self.established = False
        self.sent = 0

    def put(self, ciphertext: memoryview) -> None:
        """Bytes that came from the socket."""
        self._inbound.write(ciphertext)

    def handshake(self) -> bool:
        """Go on as far as possible; whether it is complete. Raises ssl.SSLError."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
            self.established = True
        return self.established

    def certificate(self) -> bytes | None:
        """The other side's, DER encoded."""
        return self._tls.getpeercert(True)

    def decrypt_into(self, session: Session) -> list[Event]:
        """All that can be decrypted goes to the session. Raises ssl.SSLError, ProtocolError."""
        tls, inbound = self._tls, self._inbound
        events: list[Event] = []
        while True:
            room = session.want()
            try:
                count: int = tls.read(room.nbytes, room)  # type: ignore[assignment]  # given a buffer it counts
            except ssl.SSLWantReadError:
                return events
            if not count:
                raise ssl.SSLEOFError("closed")
            events += session.received(count)
            if not inbound.pending and not tls.pending():
                return events

    def encrypt(self, pieces: list[Buffer]) -> None:
        for piece in pieces:
            self._tls.write(piece)

    def send(self) -> bool:
        """Hand ciphertext to the socket; False when it takes no more for now. Raises OSError."""
        if self._unsent:
            if not self._push(self._unsent):
                return False
            self._unsent = _EMPTY
        if self._outbound.pending:
            data = self._outbound.read()
            return self._push(memoryview(data))
        return True

    def _push(self, data: memoryview) -> bool:
        try:
            count = self._socket.send(data)
        except BlockingIOError:
            count = 0
        self.sent += count
        if count == data.nbytes:
            return True
        self._unsent = data[count:]
        return False
