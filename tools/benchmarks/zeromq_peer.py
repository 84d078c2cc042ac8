"""ZeroMQ: a REP server, REQ clients, and a DEALER where many requests are under way. Arrays go uncopied.

The client packs with msgpack; the server keeps the bytes it got.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack

from .contender import Address, Announce, Contender, Record


class ZeroMq(Contender):
    """pyzmq on tcp://."""

    def serve(self, announce: Announce) -> None:
        import zmq

        server = zmq.Context().socket(zmq.REP)
        port = server.bind_to_random_port("tcp://127.0.0.1")
        announce({"port": port})
        store: dict[bytes, Any] = {}
        while True:
            op, *rest = server.recv_multipart(copy=False)
            if op.bytes == b"p":
                store[rest[0].bytes] = rest[1]
                server.send(b"")
            elif op.bytes == b"d":
                del store[rest[0].bytes]
                server.send(b"")
            else:
                server.send_multipart([store[key.bytes] for key in rest], copy=False)

    def connect(self, address: Address) -> None:
        import zmq

        where = f"tcp://127.0.0.1:{address['port']}"
        self.context = zmq.Context()
        self.request = self.context.socket(zmq.REQ)
        self.request.connect(where)
        self.dealer: Any = None
        self.where = where

    def put(self, value: Record) -> str:
        key = next(self.keys)
        self.request.send_multipart((b"p", key.encode(), msgpack.packb(value)))
        self.request.recv()
        return key

    def get(self, key: str) -> Record:
        self.request.send_multipart((b"g", key.encode()))
        return msgpack.unpackb(self.request.recv())  # type: ignore[no-any-return]

    def get_window(self, keys: Sequence[str]) -> list[Record]:
        import zmq

        if self.dealer is None:
            self.dealer = self.context.socket(zmq.DEALER)
            self.dealer.connect(self.where)
        for key in keys:
            self.dealer.send_multipart((b"", b"g", key.encode()))
        return [msgpack.unpackb(self.dealer.recv_multipart()[1]) for _ in keys]

    def get_many(self, keys: Sequence[str]) -> list[Record]:
        self.request.send_multipart([b"g", *[key.encode() for key in keys]])
        return [msgpack.unpackb(value) for value in self.request.recv_multipart()]

    def forget(self, key: str) -> None:
        self.request.send_multipart((b"d", key.encode()))
        self.request.recv()

    def put_array(self, prepared: Any) -> str:
        key = next(self.keys)
        self.request.send_multipart((b"p", key.encode(), prepared), copy=False)
        self.request.recv()
        return key

    def get_array(self, key: str) -> Any:
        import numpy as np

        self.request.send_multipart((b"g", key.encode()))
        return np.frombuffer(self.request.recv(copy=False).buffer, np.float64)
