"""RPyC: a threaded server with a service of its own.

Values travel packed, by value: a dict by reference would cost a round trip per item. Many under way are
`async_` calls. Three of its defaults cost it dearly and are changed: Nagle's algorithm is on (40 ms per
window), large messages are compressed, and sending a large message in 64 kB pieces copies what is left of it
each time.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import msgpack

from .contender import Address, Announce, Contender, Record


def _tune() -> None:
    from rpyc.core.channel import Channel
    from rpyc.core.stream import SocketStream

    Channel.COMPRESSION_THRESHOLD = 1 << 40
    SocketStream.MAX_IO_CHUNK = 1 << 24


class RPyC(Contender):
    """rpyc.Service over its own stream."""

    def serve(self, announce: Announce) -> None:
        import rpyc
        from rpyc.utils.server import ThreadedServer

        _tune()
        store: dict[str, bytes] = {}

        class Store(rpyc.Service):  # type: ignore[misc]  # RPyC has no types
            def on_connect(self, conn: Any) -> None:
                conn._channel.stream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def exposed_put(self, key: str, value: bytes) -> None:
                store[key] = value

            def exposed_get(self, key: str) -> bytes:
                return store[key]

            def exposed_forget(self, key: str) -> None:
                del store[key]

            def exposed_get_many(self, keys: tuple[str, ...]) -> tuple[bytes, ...]:
                return tuple(store[key] for key in keys)

        server = ThreadedServer(Store, hostname="127.0.0.1", port=0)
        announce({"port": server.port})
        server.start()

    def connect(self, address: Address) -> None:
        import rpyc
        from rpyc.core.stream import SocketStream

        _tune()
        settings = {"sync_request_timeout": 60}
        stream = SocketStream.connect("127.0.0.1", address["port"], nodelay=True)
        self.connection: Any = rpyc.connect_stream(stream, config=settings)
        self.remote: Any = self.connection.root
        self.remote_get: Any = self.remote.get
        self.remote_put: Any = self.remote.put
        self.remote_forget: Any = self.remote.forget
        self.remote_get_many: Any = self.remote.get_many
        self.async_get: Any = rpyc.async_(self.remote_get)

    def put(self, value: Record) -> str:
        key = next(self.keys)
        self.remote_put(key, msgpack.packb(value))
        return key

    def get(self, key: str) -> Record:
        return msgpack.unpackb(self.remote_get(key))  # type: ignore[no-any-return]

    def get_window(self, keys: Sequence[str]) -> list[Record]:
        pending = [self.async_get(key) for key in keys]
        return [msgpack.unpackb(result.value) for result in pending]

    def get_many(self, keys: Sequence[str]) -> list[Record]:
        return [msgpack.unpackb(value) for value in self.remote_get_many(tuple(keys))]

    def forget(self, key: str) -> None:
        self.remote_forget(key)

    def put_array(self, prepared: Any) -> str:
        key = next(self.keys)
        self.remote_put(key, prepared.tobytes())
        return key

    def get_array(self, key: str) -> Any:
        import numpy as np

        return np.frombuffer(self.remote_get(key), np.float64)
