"""Pyro5 with its msgpack serializer (its default, serpent, is slower and carries bytes as base64).

Dicts travel as they are. It has no asynchronous calls, so many under way are as many threads, each with its
proxy (its batched calls are one request, not many); many in one call are a method that takes a list.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .contender import Address, Announce, Contender, Record


class Store:
    """What the Pyro daemon exposes."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def put(self, key: str, value: Any) -> None:
        self.values[key] = value

    def get(self, key: str) -> Any:
        return self.values[key]

    def forget(self, key: str) -> None:
        del self.values[key]

    def get_many(self, keys: list[str]) -> list[Any]:
        return [self.values[key] for key in keys]


class Pyro(Contender):
    """A daemon with its thread pool, a proxy per client."""

    def serve(self, announce: Announce) -> None:
        import Pyro5.api

        daemon = Pyro5.api.Daemon(host="127.0.0.1", port=0)
        uri = daemon.register(Pyro5.api.expose(Store)(), "store")
        announce({"uri": str(uri)})
        daemon.requestLoop()

    def connect(self, address: Address) -> None:
        import Pyro5.api

        Pyro5.api.config.SERIALIZER = "msgpack"
        self.proxy: Any = Pyro5.api.Proxy(address["uri"])
        self.proxy._pyroBind()
        self.uri = address["uri"]
        self.pool: ThreadPoolExecutor | None = None
        self.local = threading.local()

    def put(self, value: Record) -> str:
        key = next(self.keys)
        self.proxy.put(key, value)
        return key

    def get(self, key: str) -> Record:
        found: Record = self.proxy.get(key)
        return found

    def get_window(self, keys: Sequence[str]) -> list[Record]:
        if self.pool is None:
            self.pool = ThreadPoolExecutor(len(keys), initializer=self._own_proxy)
        return list(self.pool.map(self._get_in_thread, keys))

    def _own_proxy(self) -> None:
        import Pyro5.api

        self.local.proxy = Pyro5.api.Proxy(self.uri)

    def _get_in_thread(self, key: str) -> Record:
        found: Record = self.local.proxy.get(key)
        return found

    def get_many(self, keys: Sequence[str]) -> list[Record]:
        found: list[Record] = self.proxy.get_many(list(keys))
        return found

    def forget(self, key: str) -> None:
        self.proxy.forget(key)

    def put_array(self, prepared: Any) -> str:
        key = next(self.keys)
        self.proxy.put(key, prepared.tobytes())
        return key

    def get_array(self, key: str) -> Any:
        import numpy as np

        return np.frombuffer(self.proxy.get(key), np.float64)
