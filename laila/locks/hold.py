"""A lock that is held: the fencing token, the loss signal and the way back.

A backend subclasses Hold and answers two questions: was it lost (`_find_loss`), how is it given back (`_give_back`).
Idempotence, "once lost, always lost", forks and the asynchronous side live here once.
"""

from __future__ import annotations

from _thread import allocate_lock
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from laila.errors import LockLost

if TYPE_CHECKING:
    from .base import Lock


class Hold(ABC):
    """One acquisition of a lock. Release it, or use it as a context manager (also `async with`).

    `token` is the fencing token: an exclusive hold's is greater than every earlier one under this name; a shared hold
    carries the last exclusive one. `since` is in seconds since the epoch, by this machine's clock.

    What a hold does not promise: that nobody else acts while this process is stopped between `check()` and its next
    instruction. Whoever stores what the lock guards must compare tokens and refuse a smaller one.
    """

    __slots__ = (
        "__weakref__",
        "_lock",
        "_loss",
        "_once",
        "_owner",
        "purpose",
        "shared",
        "since",
        "token",
    )

    def __init__(self, lock: Lock, token: int, shared: bool, since: float, purpose: str) -> None:
        self._lock = lock
        self.token = token
        self.shared = shared
        self.since = since
        self.purpose = purpose
        self._owner: object = None  # the thread or task that has it; None before it was handed out
        self._loss = ""
        self._once = allocate_lock()  # taken by the one call that releases

    @abstractmethod
    def _find_loss(self) -> str:
        """Why this hold was lost, as a clause such as "the lock file was replaced"; "" while it stands.

        Cheap (a few system calls, or local knowledge); called from any thread; must not raise.
        """

    @abstractmethod
    def _give_back(self) -> None:
        """Let go of it, also when it was lost, and keep nothing open for it. Called once; must not raise."""

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._lock.name

    @property
    def loss(self) -> str:
        """Why this is held no longer, "" while it is held."""
        if not self._loss:
            if self._once.locked():
                self._loss = "it was released"
            elif found := self._find_loss():
                # A release by another thread can make the backend see things that are no loss.
                self._loss = "it was released" if self._once.locked() else found
        return self._loss

    @property
    def lost(self) -> bool:
        """Whether this is held no longer: lost, or released. Asks the backend; once True it stays True."""
        return bool(self.loss)

    def check(self) -> None:
        """Raises LockLost when this is held no longer. Call it right before publishing what the lock guards."""
        if loss := self.loss:
            raise LockLost(
                f"lock {self.name!r} is held no longer: {loss}; acquire it again and redo the work"
            )

    def release(self) -> None:
        """Let go. Idempotent; releasing a lost hold is no error."""
        if not self._once.acquire(False):
            return
        self._give_back()  # first of all: others wait for it
        if self._owner is not None:
            self._lock._holds.pop((self._lock.name, self._owner), None)

    async def release_async(self) -> None:
        """Let go without blocking the event loop. A cancelled call still releases."""
        from .waiting import in_thread

        if not self._once.locked():
            await in_thread(self.release)

    def _orphan(self) -> None:
        """In a forked child: the parent holds it, not this process. Nothing is told to the backend."""
        self._once = allocate_lock()
        self._once.acquire()
        self._loss = "this process was forked from its holder"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.release_async()

    def __repr__(self) -> str:
        mode = "shared" if self.shared else "exclusive"
        state = "lost" if self._loss else "released" if self._once.locked() else "held"
        return f"<{type(self).__name__} {self.name!r} {mode} token={self.token} {state}>"
