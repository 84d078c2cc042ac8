"""A real replica behind a fault: it can be made to fail, hang, lie or answer late, call by call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from laila.artifacts.vouchers import Pair
from laila.replication.copies import Copy
from laila.replication.replica import Branch, Health, Listing, Replica, Stamp
from laila.replication.tags import Found, Stand, Tag


class Faulty(Replica):
    """Passes everything on, unless `faults[call]` says what to do: raise it, or call it with the answer's maker.

    `calls` counts what was asked. `hold()` makes every call wait until `release()`.
    """

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.where = replica.where
        self.faults: dict[str, Exception | Callable[..., Any]] = {}
        self.calls: dict[str, int] = {}
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def down(self, error: Exception) -> None:
        """Let every call fail."""
        self.faults = {"": error}

    def up(self) -> None:
        self.faults = {}

    def _do(self, what: str, *arguments: Any) -> Any:
        self.calls[what] = self.calls.get(what, 0) + 1
        self._open.wait(60)
        fault = self.faults.get(what, self.faults.get(""))
        method = getattr(self.replica, what)
        if isinstance(fault, Exception):
            raise fault
        return method(*arguments) if fault is None else fault(method, *arguments)

    def stamp(self) -> Stamp:
        stamp: Stamp = self._do("stamp")
        return stamp

    def mark(self, stamp: Stamp, before: Stamp | None = None) -> bool:
        return bool(self._do("mark", stamp, before))

    def vouchers(self) -> list[Pair]:
        found: list[Pair] = self._do("vouchers")
        return found

    def vouch(self, vouchers: Collection[Pair]) -> None:
        self._do("vouch", vouchers)

    def membership(self) -> bytes | None:
        document: bytes | None = self._do("membership")
        return document

    def learn(self, document: bytes) -> None:
        self._do("learn", document)

    def ballot(self) -> bytes | None:
        state: bytes | None = self._do("ballot")
        return state

    def cast(self, before: bytes | None, after: bytes) -> bool:
        return bool(self._do("cast", before, after))

    def look(self, names: Sequence[str], number: int) -> list[Found]:
        found: list[Found] = self._do("look", names, number)
        return found

    def fetch(self, name: str, number: int) -> Copy | None:
        copy: Copy | None = self._do("fetch", name, number)
        return copy

    def put(self, copy: Copy, number: int) -> Stand:
        stand: Stand = self._do("put", copy, number)
        return stand

    def branches(self, prefixes: Sequence[str]) -> list[Branch]:
        branches: list[Branch] = self._do("branches", prefixes)
        return branches

    def names(self, number: int) -> Listing:
        names: Listing = self._do("names", number)
        return names

    def check(self, name: str, number: int) -> Health:
        health: Health = self._do("check", name, number)
        return health

    def distrust(self, name: str, reason: str) -> None:
        self._do("distrust", name, reason)

    def settle(self, name: str, tag: Tag | None, mark: str) -> None:
        self._do("settle", name, tag, mark)

    def scrub(self) -> Iterator[tuple[str, Health]]:
        health: Iterator[tuple[str, Health]] = self._do("scrub")
        return health

    def close(self) -> None:
        self.release()
        self.replica.close()
