"""What every lock service is: locks by name, which exclude each other between threads, processes and nodes.

Strategy: a backend implements `_take` and `holder` of Lock, `_find_loss` and `_give_back` of Hold, `_make`, `_shut`
and `_after_fork` of LockService, and says in `capabilities` what it promises. Checking of names, re-entrancy,
messages, context managers, the asynchronous side, closing and forks live here once, so that all backends behave
alike and one conformance suite (tests/locks/lock_conformance.py) holds for all of them.

Rules
- A lock is not re-entrant: the thread or asyncio task that holds a name of a service and asks for it again gets
  LockReentered at once, in whatever mode. Two services in one process are as strangers to each other as two nodes.
- A forked child holds nothing: its copies of holds are lost, and releasing them does not touch the parent's.
- Nothing here blocks an event loop when the `async` side is used; each wait has a thread of its own.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import EllipsisType
from typing import ClassVar, Self

from laila.errors import BadValue, LockError, LockReentered, LockTimeout, LockUnavailable
from laila.names import check_name

from .hold import Hold
from .holder import Holder, node_name, plain
from .owner import current_owner, shares_thread
from .waiting import Wait, in_thread

__all__ = ["Capabilities", "Hold", "Holder", "Lock", "LockService", "Wait", "node_name", "plain"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of lock service promises: its contract as data."""

    shared: bool
    """Shared holds exist: many readers, or one writer."""
    leased: bool
    """A hold ends by itself when it is not renewed in time; so a dead or cut-off holder blocks nobody for ever."""
    survives_holder_pause: bool
    """A holder that was stopped (SIGSTOP, a suspended machine) still holds it afterwards: nobody overtook it."""


class Lock(ABC):
    """One name of a lock service; a program may have many Lock objects for it. Safe under threads.

    `with lock as hold:` and `async with lock as hold:` hold it exclusively and wait at most `timeout` seconds (the
    service's `lock(name, timeout=...)`, 30 by default). NOT re-entrant: the thread or task that holds it and asks
    again gets LockReentered at once.
    """

    def __init__(self, service: LockService, name: str, timeout: float | None) -> None:
        self.service = service
        self.name = name
        self.timeout = timeout
        self._holds = service._holds
        self._entered: dict[object, Hold] = {}

    @abstractmethod
    def _take(self, wait: Wait, shared: bool, purpose: str) -> Hold | None:
        """A hold, or None when `wait` is over; at least one attempt. Called from any thread, also several at once.

        Raises LockUnavailable when the service cannot lock now. Leaves nothing behind when it returns None or raises.
        """

    def _take_now(self, shared: bool, purpose: str) -> Hold | None:
        """Asked before `_take` by backends that can see at once that a lock is free; None when it is not."""
        return None

    @abstractmethod
    def holder(self) -> Holder | None:
        """Who holds it exclusively now, as far as the backend knows; None for nobody, and for a dead holder.

        Raises LockUnavailable when the service cannot be asked.
        """

    def in_the_way(self) -> str:
        """Who keeps others from this lock, for messages; "" when that is not known."""
        holder = self.holder()
        return str(holder) if holder is not None else ""

    def acquire(self, timeout: float | None = None, *, shared: bool = False, purpose: str = "") -> Hold:
        """Hold it: exclusively, or with other shared holders. `timeout` in seconds: None = no end, 0 = do not wait.

        Raises LockTimeout (says who holds it), LockReentered, LockUnavailable (the service or the volume cannot
        lock now), BadValue.
        """
        owner = current_owner()
        self._refuse(owner, shared, purpose, timeout != 0)
        if timeout is not None and not timeout >= 0:
            Wait(timeout)  # which says what is wrong with it
        hold = self._take_now(shared, purpose) or self._take(Wait(timeout), shared, purpose)
        if hold is None:
            raise self._timed_out(timeout)
        return self._keep(hold, owner)

    def try_acquire(self, *, shared: bool = False, purpose: str = "") -> Hold | None:
        """Hold it if nobody is in the way now, else None. Raises as `acquire` does, except LockTimeout."""
        owner = current_owner()
        self._refuse(owner, shared, purpose, False)
        hold = self._take_now(shared, purpose) or self._take(Wait(0), shared, purpose)
        return None if hold is None else self._keep(hold, owner)

    async def acquire_async(
        self, timeout: float | None = None, *, shared: bool = False, purpose: str = ""
    ) -> Hold:
        """`acquire` for coroutines: never blocks the event loop. Cancelling gives up the wait and leaks no hold."""
        owner = current_owner()
        self._refuse(owner, shared, purpose, False)
        wait = Wait(timeout, abandonable=True)

        def work() -> Hold:
            hold = self._take_now(shared, purpose) or self._take(wait, shared, purpose)
            if hold is None:
                raise self._timed_out(timeout)
            return hold

        return self._keep(await in_thread(work, give_up=wait.give_up, unwanted=Hold.release), owner)

    def hold(
        self, timeout: float | EllipsisType | None = ..., *, shared: bool = False, purpose: str = ""
    ) -> Holding:
        """`with lock.hold(5, purpose="...") as hold:`, also `async with`. Without a timeout: the lock's own."""
        return Holding(self, self.timeout if isinstance(timeout, EllipsisType) else timeout, shared, purpose)

    def shared(self, timeout: float | EllipsisType | None = ..., *, purpose: str = "") -> Holding:
        """`with lock.shared() as hold:`, also `async with`: with other shared holders, but with no exclusive one."""
        return self.hold(timeout, shared=True, purpose=purpose)

    @property
    def held(self) -> Hold | None:
        """What the current thread or task holds under this name, by any Lock object of this service; else None."""
        return self._holds.get((self.name, current_owner()))

    @property
    def lost(self) -> bool:
        """Whether the current thread or task holds this no longer: lost, released, or never acquired."""
        hold = self.held
        return hold is None or hold.lost

    def close(self) -> None:
        """Let go of what this object keeps open between acquisitions. Holds stay held. Idempotent."""
        return None

    def _refuse(self, owner: object, shared: bool, purpose: str, blocks: bool) -> None:
        """Raises for what must not even be tried. `blocks`: the caller's thread will wait."""
        plain_wish = not shared and purpose == "" and (not blocks or isinstance(owner, threading.Thread))
        if plain_wish and not self.service.closed and (self.name, owner) not in self._holds:
            return
        if shared and not self.service.capabilities.shared:
            raise LockUnavailable(
                f"{self.service.kind} locks cannot be shared; ask for an exclusive hold, or use another lock service"
            )
        if not isinstance(purpose, str):
            raise BadValue(f"the purpose of a hold is text, not {type(purpose).__name__}")
        self.service._require_open()
        holds = self._holds
        again = (self.name, owner) in holds
        if not again and blocks and not isinstance(owner, threading.Thread):
            again = any(name == self.name and shares_thread(other) for name, other in list(holds))
        if again:
            who = "thread" if isinstance(owner, threading.Thread) else "event loop"
            raise LockReentered(
                f"lock {self.name!r} is held by this {who}"
                " already and is not re-entrant; release that hold first, or pass it on"
            )

    def _keep(self, hold: Hold, owner: object) -> Hold:
        hold._owner = owner
        self._holds[self.name, owner] = hold
        if self.service.closed:  # closed while we waited: nobody will close it again
            hold.release()
            self.service._require_open()
        return hold

    def _timed_out(self, timeout: float | None) -> LockTimeout:
        self.service._require_open()
        try:
            holder = self.in_the_way()
        except LockError:
            holder = ""
        by = f" by {holder}" if holder else " by somebody"
        waited = f" after {timeout:g} s" if timeout else ""
        return LockTimeout(
            f"lock {self.name!r} is{' still' if timeout else ''} held{by}{waited}; try again later, or wait longer",
            holder=holder,
        )

    def __enter__(self) -> Hold:
        hold = self.acquire(self.timeout)
        self._entered[hold._owner] = hold
        return hold

    def __exit__(self, *error: object) -> None:
        self._entered.pop(current_owner()).release()

    async def __aenter__(self) -> Hold:
        hold = await self.acquire_async(self.timeout)
        self._entered[hold._owner] = hold
        return hold

    async def __aexit__(self, *error: object) -> None:
        await self._entered.pop(current_owner()).release_async()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self.service!r}>"


class Holding:
    """A hold to come: acquired when entered, released when left. Made by `Lock.hold` and `Lock.shared`; use once."""

    __slots__ = ("_hold", "_lock", "_purpose", "_shared", "_timeout")

    def __init__(self, lock: Lock, timeout: float | None, shared: bool, purpose: str) -> None:
        self._lock = lock
        self._timeout = timeout
        self._shared = shared
        self._purpose = purpose
        self._hold: Hold | None = None

    def __enter__(self) -> Hold:
        self._hold = self._lock.acquire(self._timeout, shared=self._shared, purpose=self._purpose)
        return self._hold

    def __exit__(self, *error: object) -> None:
        if self._hold is not None:
            self._hold.release()

    async def __aenter__(self) -> Hold:
        self._hold = await self._lock.acquire_async(self._timeout, shared=self._shared, purpose=self._purpose)
        return self._hold

    async def __aexit__(self, *error: object) -> None:
        if self._hold is not None:
            await self._hold.release_async()


class LockService(ABC):
    """A place where locks live. Use it as a context manager or call `close()`: that releases what it holds.

    `node` names this node in holder records: as given, else LAILA_NAME, else the host's name.
    """

    kind: ClassVar[str]
    """Short name of the backend, such as "flock"; addresses and messages use it."""
    capabilities: ClassVar[Capabilities]

    def __init__(self, node: str = "") -> None:
        self.node = node_name(node)
        self.closed = False
        self._holds: dict[tuple[str, object], Hold] = {}
        _services.add(self)

    @abstractmethod
    def _make(self, name: str, timeout: float | None) -> Lock:
        """The lock of a checked name."""

    @abstractmethod
    def _shut(self) -> None:
        """Close connections and descriptors. Called once, after all holds were released."""

    @abstractmethod
    def _after_fork(self) -> None:
        """In a forked child: forget the parent's connections and descriptors, telling nobody; make new mutexes.

        The service must work in the child afterwards; the holds were orphaned before this is called.
        """

    def lock(self, name: str, *, timeout: float | None = 30.0) -> Lock:
        """The lock of this name; `timeout` is what `with lock:` waits, in seconds, None = no end.

        Raises BadName, BadValue, LockUnavailable when the service was closed.
        """
        Wait(timeout)
        checked = check_name("lock", name)
        self._require_open()
        return self._make(checked, timeout)

    def close(self) -> None:
        """Release every hold taken through this service and close what it keeps open. Idempotent."""
        if self.closed:
            return
        self.closed = True
        for hold in list(self._holds.values()):
            hold.release()
        self._shut()

    def _require_open(self) -> None:
        if self.closed:
            raise LockUnavailable(f"this {self.kind} lock service was closed; connect again")

    def _forked(self) -> None:
        for hold in list(self._holds.values()):
            hold._orphan()
        self._holds.clear()
        self._after_fork()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{' closed' if self.closed else ''}>"


_services: weakref.WeakSet[LockService] = weakref.WeakSet()


def _in_child() -> None:
    for service in list(_services):
        service._forked()


os.register_at_fork(after_in_child=_in_child)
