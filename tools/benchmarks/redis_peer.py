"""redis-py on a real redis-server: ephemeral port on loopback, nothing saved, values packed with msgpack.

Many gets under way are a pipeline, many in one call an MGET.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import msgpack

from .contender import Address, Announce, Contender, Record


class Redis(Contender):
    """The server is C; only the client is Python."""

    def serve(self, announce: Announce) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        announce({"port": port})
        os.dup2(2, 1)  # its log is no answer to the harness
        program = os.environ["BENCH_REDIS_SERVER"]
        settings = f"--bind 127.0.0.1 --port {port} --appendonly no --daemonize no --loglevel warning".split()
        os.execv(program, ["redis-server", *settings, "--save", ""])  # noqa: S606  # the server takes this pid

    def connect(self, address: Address) -> None:
        import redis

        self.client: Any = redis.Redis(host="127.0.0.1", port=address["port"])
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client.ping()
                return
            except redis.exceptions.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def put(self, value: Record) -> str:
        key = next(self.keys)
        self.client.set(key, msgpack.packb(value))
        return key

    def get(self, key: str) -> Record:
        return msgpack.unpackb(self.client.get(key))  # type: ignore[no-any-return]

    def get_window(self, keys: Sequence[str]) -> list[Record]:
        pipeline = self.client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        return [msgpack.unpackb(value) for value in pipeline.execute()]

    def get_many(self, keys: Sequence[str]) -> list[Record]:
        return [msgpack.unpackb(value) for value in self.client.mget(keys)]

    def forget(self, key: str) -> None:
        self.client.delete(key)

    def put_array(self, prepared: Any) -> str:
        key = next(self.keys)
        self.client.set(key, memoryview(prepared).cast("B"))
        return key

    def get_array(self, key: str) -> Any:
        import numpy as np

        return np.frombuffer(self.client.get(key), np.float64)
