"""The lock libraries, with their own defaults for how often they ask; only timeouts that give up are lifted."""

from __future__ import annotations

from typing import Any

from .lock_contender import LockContender, Place

PATIENCE = 60.0  # seconds; never reached, and a lock that expires must not do so while it is held


class PortalockerFunction(LockContender):
    """`portalocker.lock` on a file that stays open: flock behind the library's checks."""

    def __init__(self, place: Place) -> None:
        import portalocker

        self.library: Any = portalocker
        self.file = place.file.open("a")

    def acquire(self) -> None:
        self.library.lock(self.file, self.library.LockFlags.EXCLUSIVE)

    def release(self) -> None:
        self.library.unlock(self.file)


class PortalockerLock(LockContender):
    """`portalocker.Lock`: opens the file each time, asks four times a second."""

    def __init__(self, place: Place) -> None:
        import portalocker

        self.lock: Any = portalocker.Lock(str(place.file), timeout=PATIENCE)

    def acquire(self) -> None:
        self.lock.acquire()

    def release(self) -> None:
        self.lock.release()


class Fasteners(LockContender):
    """`fasteners.InterProcessLock`: asks after 10 ms, then 20, up to 100."""

    def __init__(self, place: Place) -> None:
        import fasteners

        self.lock: Any = fasteners.InterProcessLock(place.file)

    def acquire(self) -> None:
        self.lock.acquire()

    def release(self) -> None:
        self.lock.release()


class FileLock(LockContender):
    """`filelock.FileLock`: asks twenty times a second."""

    def __init__(self, place: Place) -> None:
        import filelock

        self.lock: Any = filelock.FileLock(place.file)

    def acquire(self) -> None:
        self.lock.acquire()

    def release(self) -> None:
        self.lock.release()


class Redis(LockContender):
    """redis-py's Lock on a real redis-server over loopback: asks ten times a second."""

    def __init__(self, place: Place) -> None:
        import redis

        assert place.port is not None
        client = redis.Redis(host="127.0.0.1", port=place.port)
        self.lock: Any = client.lock("bench", timeout=PATIENCE)

    def acquire(self) -> None:
        self.lock.acquire()

    def release(self) -> None:
        self.lock.release()
