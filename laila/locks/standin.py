"""A thread that blocks in flock() in its callers' stead, so that they can stop waiting when their time is up.

flock() knows no timeout, and polling is slow and unfair; so a caller leaves a ticket and waits for its bell. One
stand-in serves one lock name of one service, a ticket at a time, first come, first served. A ticket that was
withdrawn while it was blocked leaves a lock that nobody asked for: the next ticket of the same kind gets it, else
it is let go of. The thread ends when it was idle for a while, or when its place is closed; one that is blocked by
then ends when it got through.

Between the grant and the bell stands as little as possible: this is time in which the lock is held and nothing is
done.
"""

from __future__ import annotations

import collections
import threading
from _thread import allocate_lock
from collections.abc import Callable

from laila.errors import LockError

from .lockfile import LockFile

IDLE = 2.0
"""Seconds after which a thread without tickets ends."""


class Ticket:
    """A caller's wish, and what came of it: a locked file or an error. Its bell can be acquired then."""

    __slots__ = ("_settled", "bell", "error", "file", "shared")

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.file: LockFile | None = None
        self.error: LockError | None = None
        self.bell = allocate_lock()
        self.bell.acquire()
        self._settled = allocate_lock()

    def settle(self) -> bool:
        """Whether this is the first call: either the stand-in answers, or the caller withdraws."""
        return self._settled.acquire(False)

    def take(self) -> LockFile | None:
        """The locked file, once; then it is the caller's. Raises what the stand-in met."""
        if self.error is not None:
            raise self.error
        file, self.file = self.file, None
        return file


class StandIn:
    """The thread of one place, started when needed. `block(shared)` gives a locked file, `release` unlocks it."""

    __slots__ = ("_block", "_closed", "_mutex", "_name", "_parked", "_release", "_running", "_tickets")

    def __init__(
        self, name: str, block: Callable[[bool], LockFile], release: Callable[[LockFile], None]
    ) -> None:
        self._name = name
        self._block = block
        self._release = release
        self._mutex = threading.Lock()
        self._tickets: collections.deque[Ticket] = collections.deque()
        self._parked = allocate_lock()
        self._running = False
        self._closed = False

    def ask(self, shared: bool) -> Ticket:
        """A ticket in the queue."""
        ticket = Ticket(shared)
        with self._mutex:
            self._tickets.append(ticket)
            start, self._running = not self._running, True
            self._wake()
        if start:
            threading.Thread(target=self._run, name=f"laila-flock {self._name}", daemon=True).start()
        return ticket

    def withdraw(self, ticket: Ticket) -> LockFile | None:
        """The caller waits no longer; the file if it was granted just now after all, locked and the caller's."""
        if not ticket.settle():
            ticket.bell.acquire(timeout=1.0)  # the answer is on its way, or was heard already
            return ticket.take()
        with self._mutex:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
        return None

    def close(self) -> None:
        """End the thread when it is idle; tickets are the business of their callers."""
        with self._mutex:
            self._closed = True
            self._wake()

    def _wake(self) -> None:
        if self._parked.locked():
            self._parked.release()

    def _run(self) -> None:
        while True:
            with self._mutex:
                ticket = self._tickets.popleft() if self._tickets else None
                if ticket is None and self._closed:
                    self._running = False
                    return
            if ticket is not None:
                self._serve(ticket)
            elif not self._park():
                return

    def _park(self) -> bool:
        """Wait for a ticket. False when none came for so long that the thread ends."""
        if self._parked.acquire(timeout=IDLE):
            return True
        with self._mutex:
            self._running = bool(self._tickets)
            return self._running

    def _serve(self, ticket: Ticket) -> None:
        try:
            file = self._block(ticket.shared)
        except LockError as error:
            if ticket.settle():
                ticket.error = error
                ticket.bell.release()
            return
        heir: Ticket | None = ticket if ticket.settle() else self._next(ticket.shared)
        if heir is None:
            self._release(file)
        else:
            heir.file = file
            heir.bell.release()

    def _next(self, shared: bool) -> Ticket | None:
        """The next ticket of this kind, settled."""
        with self._mutex:
            for ticket in list(self._tickets):
                if ticket.shared == shared and ticket.settle():
                    self._tickets.remove(ticket)
                    return ticket
        return None
