"""What every contender is: a server process and a client that stores and fetches.

One class per contender, in a module of its own, each tuned as its own manual advises; what was chosen is in
the module's docstring. `serve` runs in the server process; everything else runs in the client process, in
the thread that called `connect` (some libraries tie a connection to its thread).
"""

from __future__ import annotations

import itertools
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .facts import Facts

Address = dict[str, Any]
Announce = Callable[[Address], None]
Record = dict[str, Any]

SMALL_WORKS = ("seq", "pipeline", "batch")
ALL_WORKS = (*SMALL_WORKS, "bulk", "clients", "idle")


# by the name on the command line; the order is the order of the table
CONTENDERS: dict[str, Facts] = {
    "raw-tcp": Facts("raw_tcp", "RawTcp", "raw TCP"),
    "raw-epoll": Facts("raw_tcp", "RawEpoll", "raw TCP, epoll server", works=("clients",)),
    "raw-tls": Facts("raw_tls", "RawTls", "raw TLS 1.3", encrypted=True),
    "laila": Facts("laila_peer", "Laila", "laila", encrypted=True, checkout=True),
    "laila-node": Facts(
        "laila_peer", "LailaNode", "laila node", encrypted=True, works=("idle",), checkout=True
    ),
    "laila-core": Facts(
        "laila_core",
        "LailaCore",
        "laila-core 1.0.12",
        environment="laila-core",
        works=(*SMALL_WORKS, "bulk", "idle"),
    ),
    "redis": Facts("redis_peer", "Redis", "redis-py"),
    "zeromq": Facts("zeromq_peer", "ZeroMq", "ZeroMQ REQ/REP"),
    "rpyc": Facts("rpyc_peer", "RPyC", "RPyC"),
    "pyro5": Facts("pyro_peer", "Pyro", "Pyro5"),
    "grpc": Facts("grpc_peer", "Grpc", "gRPC"),
}

# 100 bytes in msgpack: what a small record of an application looks like
SMALL: Record = {
    "name": "sensor-0042",
    "value": 21.75,
    "count": 123456,
    "ok": True,
    "tags": ["north", "roof"],
    "note": "checked twice and found good.",
}


class Contender(ABC):
    """A way to keep values in another process."""

    def __init__(self) -> None:
        self.keys: Iterator[str] = itertools.cycle([str(uuid.uuid4()) for _ in range(2000)])

    @abstractmethod
    def serve(self, announce: Announce) -> None:
        """Listen on 127.0.0.1, announce the address once, then serve until killed."""

    @abstractmethod
    def connect(self, address: Address) -> None:
        """Reach the server; after this every call below works."""

    @abstractmethod
    def put(self, value: Record) -> str:
        """Store one small value and wait until it is stored; its key."""

    @abstractmethod
    def get(self, key: str) -> Record:
        """Fetch one small value."""

    @abstractmethod
    def get_window(self, keys: Sequence[str]) -> list[Record]:
        """Fetch all `keys` with every request under way before the first answer is awaited."""

    @abstractmethod
    def get_many(self, keys: Sequence[str]) -> list[Record]:
        """Fetch all `keys` in one call."""

    def prepare(self, array: Any) -> Any:
        """What the user holds before `put_array` is timed."""
        return array

    @abstractmethod
    def forget(self, key: str) -> None:
        """Have the server drop one value, and wait until it has."""

    @abstractmethod
    def put_array(self, prepared: Any) -> str:
        """Store one float64 array; its key."""

    @abstractmethod
    def get_array(self, key: str) -> Any:
        """Fetch a float64 array stored by `put_array`."""


def load(name: str) -> type[Contender]:
    """The class of a contender, in a process of that contender's environment."""
    found: type[Contender] = CONTENDERS[name].load()
    return found
