"""The locks of a directory replica: files of flock, a few for all names, and one for each of its records."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import LockTimeout, LockUnavailable, StorageError
from ..locks import LockService, connect
from ..shared.trouble import storage_error

COUNT = 64
PATIENCE = 20.0
"""Seconds that a call waits for a lock."""
_DISK = re.compile(r"\((EROFS|ENOSPC|EDQUOT|EACCES|EPERM)\)")


class Stripes:
    """The locks in `directory`, which is made by others, of the replica in `root`. NOT re-entrant."""

    def __init__(self, directory: Path, root: Path) -> None:
        self._directory = directory
        self._root = root
        self._mutex = threading.Lock()
        self._service: LockService | None = None
        self._closed = False

    def name(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Keep everybody else from what there is under a name. Raises StorageError."""
        return self.record(f"{zlib.crc32(name.encode()) % COUNT:02}")

    @contextlib.contextmanager
    def record(self, record: str) -> Iterator[None]:
        """Keep everybody else from changing a record. Raises StorageError."""
        service = self._opened()
        try:
            hold = service.lock(record).acquire(PATIENCE)
        except LockTimeout as error:
            raise StorageError(
                f"cannot write to {self._root}: its lock {record!r} was held for {PATIENCE:g} s by "
                f"{error.holder or 'somebody'}; end that program if it hangs, then try again",
                reason="EBUSY",
            ) from error
        except LockUnavailable as error:
            if (why := _disk_trouble(error)) is not None:
                raise storage_error(f"write to {self._root}", why) from error
            raise StorageError(f"cannot write to {self._root}: {error}", reason="ENOLCK") from error
        try:
            yield
        finally:
            hold.release()

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            service, self._service = self._service, None
        if service is not None:
            service.close()

    def _opened(self) -> LockService:
        with self._mutex:
            if self._closed:
                raise StorageError(f"the replica {self._root} was closed; open it again", reason="EBADF")
            if self._service is None:
                self._service = connect(f"flock:{self._directory}", create=False)
            return self._service


def _disk_trouble(error: LockUnavailable) -> OSError | None:
    """The system's own reason for which a lock file cannot be written."""
    word = _DISK.search(str(error))
    if word is None:
        return None
    number = getattr(errno, word[1])
    return OSError(number, os.strerror(number))
