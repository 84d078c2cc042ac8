"""laila.locks on a directory: each acquisition yields a fencing token and writes who holds it."""

from __future__ import annotations

from .lock_contender import LockContender, Place


class Laila(LockContender):
    """The lock object is kept, as one does that locks again and again."""

    def __init__(self, place: Place) -> None:
        from laila.locks import connect

        self.lock = connect(str(place.folder)).lock("bench")

    def acquire(self) -> None:
        self.hold = self.lock.acquire()

    def release(self) -> None:
        self.hold.release()
