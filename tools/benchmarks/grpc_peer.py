"""gRPC without encryption: generic handlers on bytes, no generated code, no message limits.

The client packs with msgpack; the server keeps the bytes it got.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack

from .contender import Address, Announce, Contender, Record

KEY = 36
OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


class Grpc(Contender):
    """grpcio, unary calls."""

    def serve(self, announce: Announce) -> None:
        import grpc

        store: dict[bytes, bytes] = {}

        def put(request: bytes, _: Any) -> bytes:
            store[request[:KEY]] = request[KEY:]
            return b""

        def get(request: bytes, _: Any) -> bytes:
            return store[request]

        def forget(request: bytes, _: Any) -> bytes:
            del store[request]
            return b""

        def get_many(request: bytes, _: Any) -> bytes:
            found: bytes = msgpack.packb([store[request[i : i + KEY]] for i in range(0, len(request), KEY)])
            return found

        methods = {"put": put, "get": get, "forget": forget, "get_many": get_many}
        handlers = {name: grpc.unary_unary_rpc_method_handler(call) for name, call in methods.items()}
        server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Store", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        announce({"port": port})
        threading.Event().wait()

    def connect(self, address: Address) -> None:
        import grpc

        channel = grpc.insecure_channel(f"127.0.0.1:{address['port']}", options=OPTIONS)
        grpc.channel_ready_future(channel).result(timeout=20)
        self.channel: Any = channel
        self.call_put: Any = channel.unary_unary("/Store/put")
        self.call_get: Any = channel.unary_unary("/Store/get")
        self.call_forget: Any = channel.unary_unary("/Store/forget")
        self.call_get_many: Any = channel.unary_unary("/Store/get_many")

    def put(self, value: Record) -> str:
        key = next(self.keys)
        self.call_put(key.encode() + msgpack.packb(value))
        return key

    def get(self, key: str) -> Record:
        return msgpack.unpackb(self.call_get(key.encode()))  # type: ignore[no-any-return]

    def get_window(self, keys: Sequence[str]) -> list[Record]:
        pending = [self.call_get.future(key.encode()) for key in keys]
        return [msgpack.unpackb(future.result()) for future in pending]

    def get_many(self, keys: Sequence[str]) -> list[Record]:
        return [
            msgpack.unpackb(value) for value in msgpack.unpackb(self.call_get_many("".join(keys).encode()))
        ]

    def forget(self, key: str) -> None:
        self.call_forget(key.encode())

    def put_array(self, prepared: Any) -> str:
        key = next(self.keys)
        self.call_put(b"".join((key.encode(), memoryview(prepared).cast("B"))))
        return key

    def get_array(self, key: str) -> Any:
        import numpy as np

        return np.frombuffer(self.call_get(key.encode()), np.float64)
