"""A replica that keeps its identity, membership and vote in memory, and no versions; it may fail and hang on demand."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from typing import NoReturn

from laila.artifacts import Artifact, TrustSet
from laila.artifacts.vouchers import Pair
from laila.errors import MixedReplicas, StorageError
from laila.replication.copies import Copy
from laila.replication.replica import Branch, Health, Listing, Replica, Stamp
from laila.replication.tags import Found, Stand, Tag


class Disk:
    """What several programs' replicas of one place share. `away`: calls fail."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.away = False
        self.learned: list[bytes] = []
        """All documents that it ever took."""
        self.wipe()

    def wipe(self) -> None:
        """Exchange it for an empty one."""
        self.stamp = Stamp()
        self.document: bytes | None = None
        self.ballot: bytes | None = None


class MemoryReplica(Replica):
    """`before(what)` is called first, in the caller's thread."""

    def __init__(self, where: str, trust: TrustSet | None = None, disk: Disk | None = None) -> None:
        self.where = where
        self.disk = disk or Disk()
        self.closed = False
        self._trust = trust

    def before(self, what: str) -> None:
        """For tests: `replica.before = …`."""

    def _enter(self, what: str) -> None:
        self.before(what)
        if self.disk.away:
            raise StorageError(f"{self.where} is not there", reason="ENOENT")

    def stamp(self) -> Stamp:
        self._enter("stamp")
        return self.disk.stamp

    def mark(self, stamp: Stamp, before: Stamp | None = None) -> bool:
        self._enter("mark")
        with self.disk.mutex:
            known = self.disk.stamp
            if before is not None and known != before:
                return False
            if known.store and (known.store, known.replica) != (stamp.store, stamp.replica):
                raise MixedReplicas(f"{self.where} is replica {known.replica} of store {known.store}")
            self.disk.stamp = stamp
            return True

    def vouchers(self) -> list[Pair]:
        return []

    def vouch(self, vouchers: Collection[Pair]) -> None: ...

    def membership(self) -> bytes | None:
        self._enter("membership")
        return self.disk.document

    def learn(self, document: bytes) -> None:
        self._enter("learn")
        new = Artifact.from_bytes(document, trust=self._trust, path=self.where)
        with self.disk.mutex:
            if self.disk.document is None or Artifact.from_bytes(self.disk.document).sequence < new.sequence:
                self.disk.document = document
                self.disk.learned.append(document)

    def ballot(self) -> bytes | None:
        self._enter("ballot")
        return self.disk.ballot

    def cast(self, before: bytes | None, after: bytes) -> bool:
        self._enter("cast")
        with self.disk.mutex:
            same = self.disk.ballot == before
            if same:
                self.disk.ballot = after
            return same

    def close(self) -> None:
        self.closed = True

    # -- versions are no concern of memberships --

    def look(self, names: Sequence[str], number: int) -> list[Found]:
        self._none()

    def fetch(self, name: str, number: int) -> Copy | None:
        self._none()

    def put(self, copy: Copy, number: int) -> Stand:
        self._none()

    def branches(self, prefixes: Sequence[str]) -> list[Branch]:
        self._none()

    def names(self, number: int) -> Listing:
        self._none()

    def check(self, name: str, number: int) -> Health:
        self._none()

    def distrust(self, name: str, reason: str) -> None:
        self._none()

    def settle(self, name: str, tag: Tag | None, mark: str) -> None:
        self._none()

    def scrub(self) -> Iterator[tuple[str, Health]]:
        self._none()

    def _none(self) -> NoReturn:
        raise StorageError("this one keeps no versions")
