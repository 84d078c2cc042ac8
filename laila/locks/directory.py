"""The directory of lock files, watched cheaply: as long as it did not change, none of its names means another file.

Its time of change (ctime) moves with every name in it, and when it is renamed itself. Looking a path up costs three
times as much as asking an open directory for its time of change; on some file systems it also makes the next write
to that file dearer. A time of change proves nothing while it is so young that a second change could bear the same
one; then, and where clocks disagree, this says "unknown", and paths are looked up."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

UNKNOWN = -1
_SETTLED = 50_000_000
"""Nanoseconds after which a further change bears another time: clocks of file systems tick every 10 ms at least."""


class Directory:
    """An open directory. It holds no lock, so a forked child may share it."""

    __slots__ = ("_fd", "_identity", "_mutex", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._identity = (-1, -1)
        self._mutex = threading.Lock()

    def changed(self) -> int:
        """The time of its last change in ns, UNKNOWN when it cannot be told: cheap."""
        try:
            return os.fstat(self._fd).st_ctime_ns
        except OSError:
            return UNKNOWN

    def settled(self) -> int:
        """The same, but UNKNOWN while it could change again without a trace; looks the path up."""
        try:
            status = self.path.stat()
        except OSError:
            return UNKNOWN
        if (status.st_dev, status.st_ino) != self._identity:
            self._open()
            return UNKNOWN
        return status.st_ctime_ns if time.time_ns() - status.st_ctime_ns > _SETTLED else UNKNOWN

    def _open(self) -> None:
        with self._mutex:
            self._drop()
            with contextlib.suppress(OSError):  # then it stays UNKNOWN
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                status = os.fstat(self._fd)
                self._identity = (status.st_dev, status.st_ino)

    def _drop(self) -> None:
        fd, self._fd, self._identity = self._fd, -1, (-1, -1)
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Let go of the descriptor; it is opened again when somebody asks."""
        with self._mutex:
            self._drop()

    def after_fork(self) -> None:
        """In the child: another thread of the parent may have held the mutex."""
        self._mutex = threading.Lock()
