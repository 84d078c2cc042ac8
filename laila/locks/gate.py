"""A second file beside a lock file, `.<name>.gate`: where waiters are seen, and where tokens outlive the lock file.

- Who waits holds the gate shared meanwhile; who wants the lock without having waited looks first whether anybody
  does. Nobody ever blocks at the gate, so a waiter that was stopped there (SIGSTOP) holds nobody up: others are
  polite in vain.
- It says a ceiling: no token above it was ever given. So when the lock file was truncated (`open(path, "w")` does
  that), damaged or removed, the next token is above the ceiling, and tokens go on rising even where clocks
  disagree.
"""

from __future__ import annotations

import fcntl
import os
import threading

from laila.errors import LockUnavailable

from .lockfile import LockFile, unavailable

RESERVE = 1_000_000
"""How far above the token at hand the ceiling is raised, in microseconds: one write in a second of use."""
_CEILING = b"laila lock gate; tokens up to: "
_DIGITS = 23


class Gate:
    """The gate of one lock name, for all threads of a service: they share a description, so they are counted."""

    __slots__ = ("_file", "_mutex", "_path", "_waiting", "ceiling")

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: LockFile | None = None
        self._mutex = threading.Lock()
        self._waiting = 0
        self.ceiling = 0

    def occupied(self) -> bool:
        """Whether somebody waits, through this service or another."""
        with self._mutex:
            if self._waiting:
                return True
            free = self._flock(fcntl.LOCK_EX)
            if free:
                self._flock(fcntl.LOCK_UN)
            return not free

    def enter(self) -> None:
        """Be seen waiting, until `leave`."""
        with self._mutex:
            self._waiting += 1
            if self._waiting == 1:
                self._flock(
                    fcntl.LOCK_SH
                )  # fails in the microsecond in which another looks: then we wait unseen

    def leave(self) -> None:
        """Be seen no longer, unless other threads of this service wait."""
        with self._mutex:
            self._waiting -= 1
            if self._waiting == 0:
                self._flock(fcntl.LOCK_UN)

    def read_ceiling(self) -> int:
        """The ceiling by the file, 0 where it says none. Raises LockUnavailable."""
        with self._mutex:
            try:
                self.ceiling = self._read(self._opened(create=False))
            except FileNotFoundError:
                self.ceiling = 0
        return self.ceiling

    def raise_ceiling(self, token: int) -> None:
        """Make the file's ceiling cover this token and those soon after; only under the exclusive lock.

        Raises LockUnavailable.
        """
        with self._mutex:
            file = self._opened()
            self.ceiling = self._read(file)
            if token > self.ceiling:
                try:
                    if file.refused:
                        raise OSError(file.refused, os.strerror(file.refused))
                    os.pwrite(file.fd, b"%b%0*d\n" % (_CEILING, _DIGITS, token + RESERVE), 0)
                except OSError as error:
                    raise unavailable(self._path, error) from error
                self.ceiling = token + RESERVE

    def close(self) -> None:
        """Close the file, unless somebody is seen waiting by it; it is opened again when it is needed."""
        with self._mutex:
            if not self._waiting:
                self._drop()

    def after_fork(self) -> None:
        """In the child: the descriptor was closed, and nobody waits."""
        self._mutex = threading.Lock()
        self._file = None
        self._waiting = 0

    def _read(self, file: LockFile) -> int:
        try:
            content = file.read()
        except OSError as error:
            self._drop()
            raise unavailable(self._path, error) from error
        digits = content[len(_CEILING) : len(_CEILING) + _DIGITS]
        whole = content.startswith(_CEILING) and len(digits) == _DIGITS and digits.isdigit()
        return int(digits) if whole else 0

    def _opened(self, create: bool = True) -> LockFile:
        if self._file is not None and os.fstat(self._file.fd).st_nlink == 0:
            self._drop()  # removed: others will meet at a new one
        if self._file is None:
            self._file = LockFile.open(self._path, create=create)
        return self._file

    def _flock(self, mode: int) -> bool:
        """False when others are in the way. A gate that does not work costs fairness only, and so is no error."""
        try:
            if self._file is None:
                self._file = LockFile.open(self._path)
            fcntl.flock(self._file.fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except (OSError, LockUnavailable):
            self._drop()
        return True

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
