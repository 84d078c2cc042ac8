"""Plain TCP: the limit of what Python reaches on loopback, with nothing for safety."""

from __future__ import annotations

import selectors
import socket

from . import raw_frames
from .contender import Address, Announce


class RawTcp(raw_frames.RawClient):
    """Blocking sockets, a thread per client."""

    def open_socket(self, address: Address) -> socket.socket:
        return socket.create_connection(("127.0.0.1", address["port"]))

    def serve(self, announce: Announce) -> None:
        listener, port = raw_frames.listen()
        announce({"port": port})
        raw_frames.serve_threads(listener, lambda sock: sock)


class RawEpoll(RawTcp):
    """The same protocol served by one thread with a selector; small requests only."""

    def serve(self, announce: Announce) -> None:
        listener, port = raw_frames.listen()
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ)
        buffers: dict[socket.socket, bytes] = {}
        store: raw_frames.Store = {}
        announce({"port": port})
        while True:
            for key, _ in selector.select():
                sock = key.fileobj
                if sock is listener:
                    accepted, _ = listener.accept()
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(accepted, selectors.EVENT_READ)
                    buffers[accepted] = b""
                elif isinstance(sock, socket.socket) and not self._serve_ready(sock, buffers, store):
                    selector.unregister(sock)
                    del buffers[sock]
                    sock.close()

    @staticmethod
    def _serve_ready(
        sock: socket.socket, buffers: dict[socket.socket, bytes], store: raw_frames.Store
    ) -> bool:
        """Answer what has come; False when the client closed."""
        try:
            chunk = sock.recv(raw_frames.RECEIVE)
        except OSError:
            return False
        buffer = buffers[sock] + chunk
        replies, used = raw_frames.answer(buffer, store)
        buffers[sock] = buffer[used:]
        if replies:
            raw_frames.send(sock, replies)
        return bool(chunk)
