"""flock itself: the floor (a descriptor that stays open), and the usual way (the file is opened each time)."""

from __future__ import annotations

import fcntl
import os

from .lock_contender import LockContender, Place


class Bare(LockContender):
    """One descriptor, opened once; nothing is written, there is no timeout and no token."""

    def __init__(self, place: Place) -> None:
        self.descriptor = os.open(place.file, os.O_RDWR | os.O_CREAT, 0o644)

    def acquire(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def release(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)


class Reopen(LockContender):
    """`with open(path, "w") as file: flock(file, LOCK_EX)`, as most programs that lock do."""

    def __init__(self, place: Place) -> None:
        self.path = place.file

    def acquire(self) -> None:
        self.file = self.path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def release(self) -> None:
        fcntl.flock(self.file, fcntl.LOCK_UN)
        self.file.close()
