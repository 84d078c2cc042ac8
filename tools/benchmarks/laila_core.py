"""laila-core 1.0.12, the public library (import name `laila`, so it has its own environment).

Its raw TCP transport, as its default one breaks above 0.74 MiB; `dst_policy=`, the documented way to reach a
peer and the only one of its two that can memorize a dict there.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from typing import Any

from .contender import Address, Announce, Contender, Record

POOL = "store"
SECRET = "0123456789abcdef" * 2  # it is sent in clear anyway
PATIENCE = 60


def _module(name: str) -> Any:
    """By name, so that type checkers do not take this `laila` for the checkout's."""
    return importlib.import_module(name)


class LailaCore(Contender):
    """Two policies over its TCP transport."""

    def _listen(self) -> Any:
        self.laila = _module("laila")
        self.defaults = _module("laila.macros.defaults")
        self.laila.active_policy = self.defaults.DefaultPolicy()
        tcp = self.defaults.DefaultTCPProtocol(host="127.0.0.1", port=0, peer_secret_key=SECRET)
        self.laila.communication.add_connection(tcp)
        return tcp

    def serve(self, announce: Announce) -> None:
        tcp = self._listen()
        self.laila.memory.extend(pool=self.defaults.DefaultPool(), pool_nickname=POOL)
        announce({"port": tcp.bound_port})
        threading.Event().wait()

    def connect(self, address: Address) -> None:
        self.peer = self._listen().connect_tcp("127.0.0.1", address["port"], SECRET)

    def put(self, value: Record) -> str:
        return self.put_array(self.prepare(value))

    def get(self, key: str) -> Record:
        found: Record = self.get_array(key)
        return found

    def get_window(self, keys: Sequence[str]) -> list[Record]:
        futures = [self.laila.remember(key, pool=POOL, dst_policy=self.peer) for key in keys]
        for future in futures:
            future.wait(PATIENCE)
        return [future.data for future in futures]

    def get_many(self, keys: Sequence[str]) -> list[Record]:
        group = self.laila.remember(list(keys), pool=POOL, dst_policy=self.peer)
        group.wait(PATIENCE)
        found: list[Record] = group.data
        return found

    def prepare(self, array: Any) -> Any:
        return self.laila.constant(data=array)

    def forget(self, key: str) -> None:
        self.laila.forget(key, pool=POOL, policy=self.peer).wait(PATIENCE)

    def put_array(self, prepared: Any) -> str:
        self.laila.memorize(prepared, pool=POOL, dst_policy=self.peer).wait(PATIENCE)
        return str(prepared.global_id)

    def get_array(self, key: str) -> Any:
        future = self.laila.remember(key, pool=POOL, dst_policy=self.peer)
        future.wait(PATIENCE)
        return future.data
