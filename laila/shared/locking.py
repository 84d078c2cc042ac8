"""The locks of a store: one per artifact, from the service that the store was given, or by flock on its own volume.

What is guaranteed, where locks on the volume exclude (`laila volume check` says SAFE):

- flock on the volume (the default): one exclusive holder at a time. A stopped holder keeps its lock, so nobody
  overtakes it. It can be overtaken only where its lock goes away under it (a replaced lock file, a file system that
  dropped it after a partition): then the lock file is another one or carries a greater token, and what it wants to
  publish is refused.
- a leased service (Redis, etcd): a stopped holder *is* overtaken when its lease ends. Therefore each publishing takes
  the volume's own flock for the moment of the last look and the rename (`gate`): between the two nobody else can
  publish, and a holder that was overtaken finds its lease ended or another version there, and changes nothing.

Where the volume cannot lock, and a service elsewhere is used, the gate does not exclude other nodes. What is left is
a window of some microseconds between the last look and the rename: a holder that is stopped exactly there, for longer
than its lease, would replace its successor's version when it goes on. No check before a rename can close that. It
does not go unnoticed: both versions have one number, so whoever saw the first refuses the second (RolledBack).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import LockTimeout, LockUnavailable
from .place import Place

if TYPE_CHECKING:
    from ..locks import Hold, Holder, Lock, LockService

log = logging.getLogger("laila.shared")


class Locking:
    """Locks by artifact. `locks` None is flock on the volume; a service that was given open is not closed here.

    Raises BadValue for a timeout that is none, and what the service raises.
    """

    def __init__(
        self, place: Place, locks: LockService | str | None, *, timeout: float | None, node: str
    ) -> None:
        from ..locks import FlockService, connect
        from ..locks.waiting import Wait

        Wait(timeout)
        self._place = place
        self._timeout = timeout
        self._flock = FlockService(place.root, node=node)
        if isinstance(locks, str):
            self.service: LockService = connect(locks, node=node)
        else:
            self.service = self._flock if locks is None else locks
        self._ours = not (locks is None or self.service is locks)
        self._gated = self.service.kind != self._flock.kind
        self._told = False

    @contextlib.contextmanager
    def exclusive(self, name: str, purpose: str) -> Iterator[Hold]:
        """Raises LockTimeout, LockReentered, LockUnavailable."""
        self._place.require()
        with self._lock(name).hold(purpose=purpose) as hold:
            yield hold

    @contextlib.contextmanager
    def shared(self, name: str, purpose: str) -> Iterator[Hold | None]:
        """None where this process may only read, and so cannot lock: what is published by rename can be read so."""
        self._place.require()  # or else a lock file would be made where the volume was mounted
        lock = self._lock(name)
        try:
            hold = lock.acquire(self._timeout, shared=True, purpose=purpose)
        except LockUnavailable:
            if self._gated or self._lockable(name):
                raise
            yield None
            return
        with hold:
            yield hold

    def holder(self, name: str) -> Holder | None:
        """Who holds it exclusively now."""
        return self._lock(name).holder()

    def try_exclusive(self, name: str, purpose: str) -> Hold | None:
        """A hold, if nobody is in the way now."""
        return self._lock(name).try_acquire(purpose=purpose)

    @contextlib.contextmanager
    def gate(self, name: str) -> Iterator[None]:
        """While this lasts, no other store publishes this name; nothing to do where the hold itself is that.

        Raises LockTimeout when somebody is stopped in it.
        """
        if not self._gated:
            yield
            return
        try:
            hold = self._flock.lock(name, timeout=self._timeout).acquire(self._timeout, purpose="publishing")
        except LockTimeout:
            raise
        except LockUnavailable as error:
            if not self._told:
                log.warning(
                    "no locks on the volume itself, those of %s must do: %s", self.service.kind, error
                )
                self._told = True
            yield
            return
        with hold:
            yield

    def close(self) -> None:
        self._flock.close()
        if self._ours:
            self.service.close()

    def _lock(self, name: str) -> Lock:
        return self.service.lock(name, timeout=self._timeout)

    def _lockable(self, name: str) -> bool:
        """Whether this process may write the lock file, or make it."""
        path = self._place.lock(name)
        return os.access(path if path.exists() else self._place.root, os.R_OK | os.W_OK, effective_ids=True)
