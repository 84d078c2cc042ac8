"""Programs that open one store on disks in memory, each with links of its own that can be cut at any call."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from laila.artifacts import Signer, TrustSet
from laila.errors import StorageError
from laila.replication.calls import Crowd
from laila.replication.changes import Changes
from laila.replication.members import Members
from laila.replication.membership import Document, place
from laila.replication.opening import MembershipDiffers, open_membership
from laila.replication.views import Quorums, View
from tests.replication.memory_replica import Disk, MemoryReplica


class Links:
    """A program's way to all replicas; after `limit` calls nothing gets through any more, as if it had been killed."""

    def __init__(self, limit: int | None = None) -> None:
        self._left = limit
        self._mutex = threading.Lock()
        self.cut = False

    def pass_through(self, what: str) -> None:
        with self._mutex:
            if self._left is None:
                return
            self._left -= 1
            if self._left < 0:
                self.cut = True
                raise StorageError("this program was killed")


@dataclass
class Program:
    """A store as one program has it open."""

    crowd: Crowd
    members: Members
    changes: Changes
    caught_up: list[View]

    @property
    def view(self) -> View:
        return self.members._membership.view

    @property
    def wheres(self) -> list[str]:
        return [member.where for member in self.view.members]


class World:
    """Disks by place."""

    def __init__(self, signer: Signer, trust: TrustSet) -> None:
        self.signer = signer
        self.trust = trust
        self.disks: dict[str, Disk] = defaultdict(Disk)

    def replica(self, where: str, links: Links | None = None) -> MemoryReplica:
        replica = MemoryReplica(where, self.trust, self.disks[place(where)])
        if links is not None:
            replica.before = links.pass_through  # type: ignore[method-assign]
        return replica

    @contextmanager
    def program(
        self,
        wheres: Sequence[str],
        links: Links | None = None,
        *,
        quorums: Quorums | None = None,
        catch_up: Callable[[View], None] = lambda view: None,
        timeout: float = 30.0,
        by: str = "",
        differs: bool = False,
    ) -> Iterator[Program]:
        def open(where: str) -> MemoryReplica:
            return self.replica(where, links)

        with contextlib.ExitStack() as stack:
            if differs:  # not safe under threads, so only where it is needed
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", MembershipDiffers)
            opened = open_membership(
                [open(where) for where in wheres],
                open,
                signer=self.signer,
                trust=self.trust,
                quorums=quorums,
                timeout=timeout,
            )
        crowd = Crowd({})
        members = Members(crowd, opened.membership, open, self.trust, timeout)
        members.follow(opened.known)
        caught_up: list[View] = []

        def noted(view: View) -> None:
            caught_up.append(view)
            catch_up(view)

        changes = Changes(
            crowd,
            opened.membership,
            signer=self.signer,
            trust=self.trust,
            open=open,
            follow=lambda view, known: members.follow(known),
            catch_up=noted,
            timeout=timeout,
            by=by,
        )
        try:
            yield Program(crowd, members, changes, caught_up)
        finally:
            crowd.close()
            members.close()

    def check(self) -> dict[int, Document]:
        """All that was ever learned, by number: one document each, and every one follows the one before."""
        found: dict[int, Document] = {}
        for disk in self.disks.values():
            for data in disk.learned:
                document = Document.read(data, self.trust)
                number = document.view.number
                assert found.setdefault(number, document).data == data, f"two documents have number {number}"
        for number, document in found.items():
            if number - 1 in found:
                before = found[number - 1].view
                assert (before.next == ()) or document.view.members in (before.next, before.members)
                assert before.next or before.members == document.view.members
        assert len({document.view.store for document in found.values()}) <= 1
        return found

    def numbers(self) -> dict[str, int]:
        """Which membership each disk knows."""
        return {
            where: 0 if disk.document is None else Document.read(disk.document, self.trust).view.number
            for where, disk in self.disks.items()
        }
