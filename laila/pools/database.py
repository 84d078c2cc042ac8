"""One SQLite file and the connections to it. Used by the sqlite pool.

Strategy: write-ahead log with full synchronisation, so a commit is one fsync and readers never wait for
writers. Threads write one after the other behind a lock of this process (fairer than SQLite's polling),
processes behind BEGIN IMMEDIATE. A connection serves one operation at a time and goes back to a stack: as
many are open as operations ran at once, and a thread that ends leaves none behind. After any error a
connection is closed, not reused.

Rules
- Nothing here may open and close the file by other means than SQLite: POSIX would drop its locks. `stat` is
  fine.
- A forked child never uses its parent's connections: they are put aside and the child opens its own.
- On a read-only file system SQLite reads a file without a log only if it is declared immutable. It may not be
  (it may be mounted elsewhere, for writing), so after such a read the file must be as it was when it was
  opened; if it is not, it is opened again and the read begins anew.
"""

from __future__ import annotations

import contextlib
import enum
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from laila.errors import BadValue, Corrupt, LailaError, LimitExceeded, StorageError
from laila.pools.disk import identity, make_directory, reported, sync_directory

WAIT_SECONDS = 30.0
"""How long a write waits for other writers before it fails with EBUSY."""
PAGE = 8192
"""Bytes of a page: reads 64 MiB 1.5 to 2 times as fast as SQLite's 4096 would, and 100 bytes as fast."""
TIME_STEP = 0.02
"""Seconds after which a file system certainly gives a changed file another time."""
MAX_REREADS = 100
"""How often a read of a file that somebody else keeps changing begins anew."""

Result = TypeVar("Result")


class Mode(enum.Enum):
    """How the file is open; the value is SQLite's URI query."""

    WRITABLE = "mode=rwc"
    READ_ONLY = "mode=ro"
    IMMUTABLE = "mode=ro&immutable=1"


class Database:
    """Transactions on the SQLite file `path`. Safe under threads.

    `schema` are the statements that make an empty file ours; `application` and `version` are the numbers in
    its header by which it is known. Raises BadValue if the file is another program's or of another version.
    """

    def __init__(self, path: Path, *, schema: tuple[str, ...], application: int, version: int) -> None:
        self.path = path
        self._schema = (*schema, f"PRAGMA application_id = {application}", f"PRAGMA user_version = {version}")
        self._application = application
        self._version = version
        self._writing = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._opened_as = (0, 0, False)
        self._refusal = ""
        self._closed = False
        with reported(f"open {path}"):
            make_directory(path.parent)
        self._open()
        _databases.add(self)

    def read(self, operation: Callable[[sqlite3.Connection], Result]) -> Result:
        """What `operation` returns. Its statements see one state only if it says BEGIN (and COMMIT)."""
        for _ in range(MAX_REREADS):
            try:
                with self._borrowed("read") as connection:
                    result = operation(connection)
                if self._unchanged():
                    return result
            except LailaError:
                if self._unchanged():
                    raise
            self._reopen()
        raise StorageError(f"cannot read {self.path}: it changes all the time", reason="EBUSY")

    def write(self, operation: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `operation` in a transaction: on disk when this returns; as if never begun when it raises."""
        if not self._writable():
            self._reopen()  # it may be writable by now
            if not self._writable():
                raise StorageError(
                    f"cannot write {self.path}: it can only be read ({self._refusal})", reason=self._refusal
                )
        writing = self._writing
        if not writing.acquire(timeout=WAIT_SECONDS):
            raise StorageError(
                f"cannot write {self.path}: other threads wrote for {WAIT_SECONDS:g} s (EBUSY)",
                reason="EBUSY",
            )
        try:
            with self._borrowed("write") as connection:
                connection.execute("BEGIN IMMEDIATE")
                result = operation(connection)
                connection.execute("COMMIT")
            return result
        finally:
            writing.release()

    def _writable(self) -> bool:
        return self.mode is Mode.WRITABLE

    def close(self) -> None:
        """Close every connection, those at work when they are done. The last one clears the log away."""
        self._closed = True
        _databases.discard(self)
        self._drop_idle()

    # -- connections -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _borrowed(self, doing: str) -> Iterator[sqlite3.Connection]:
        self._check_file()
        connection = None
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect(self.mode)
            yield connection
        except BaseException as error:
            if connection is not None:
                connection.close()  # rolls back
            if isinstance(error, sqlite3.Error):
                raise _translated(error, self.path, doing) from error
            raise
        self._idle.append(connection)
        if self._closed:
            self._drop_idle()

    def _drop_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _connect(self, mode: Mode) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?{mode.value}",
            uri=True,
            timeout=WAIT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if mode is Mode.WRITABLE:
                connection.execute(f"PRAGMA page_size = {PAGE}")  # of a new file
                _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"))
            connection.execute("PRAGMA synchronous = EXTRA")  # with a log the same as FULL
            connection.execute("PRAGMA fullfsync = ON")  # where fsync alone does not reach the disk
            connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
        except BaseException:
            connection.close()
            raise
        return connection

    # -- opening -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Decide how the file can be opened, check that it is ours, and make it ours if it is new."""
        existed = self.path.exists()
        try:
            self._try_open(Mode.WRITABLE)
        except sqlite3.Error as error:
            problem = _translated(error, self.path, "open")
            if (
                not existed
                or not isinstance(problem, StorageError)
                or problem.reason not in _READ_ONLY_REASONS
            ):
                raise problem from error
            self._refusal = problem.reason
            self._open_for_reading()
        with reported(f"open {self.path}"):
            self._identity = identity(self.path)
            if not existed:
                sync_directory(self.path.parent)

    def _open_for_reading(self) -> None:
        try:
            self._try_open(Mode.READ_ONLY)
        except sqlite3.Error as error:
            if self._log().exists():
                raise StorageError(
                    f"cannot read {self.path}: its last writes are in {self._log().name}, and only a "
                    f"process that may write can put them back; open it once where it is writable (EROFS)",
                    reason="EROFS",
                ) from error
            time.sleep(TIME_STEP)  # so that a later change has another time
            self._opened_as = self._stamp()
            try:
                self._try_open(Mode.IMMUTABLE)
            except sqlite3.Error as again:
                raise _translated(again, self.path, "open") from again

    def _try_open(self, mode: Mode) -> None:
        connection = self._connect(mode)
        try:
            connection.execute("BEGIN IMMEDIATE" if mode is Mode.WRITABLE else "BEGIN")
            application, version, tables = connection.execute(
                "SELECT a.application_id, v.user_version, (SELECT count(*) FROM sqlite_master) "
                "FROM pragma_application_id AS a, pragma_user_version AS v"
            ).fetchone()
            if mode is Mode.WRITABLE and (application, version, tables) == (0, 0, 0):
                for statement in self._schema:
                    connection.execute(statement)
            elif application != self._application:
                raise BadValue(f"{self.path} is a SQLite database of another program; choose another path")
            elif version != self._version:
                raise BadValue(
                    f"{self.path} has schema version {version}; this version of laila reads {self._version}"
                )
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self.mode = mode
        self._idle.append(connection)

    def _reopen(self) -> None:
        self._drop_idle()
        self._open()

    def _log(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    def _unchanged(self) -> bool:
        """Whether an immutable file still is; elsewhere SQLite itself takes care of changes."""
        return self.mode is not Mode.IMMUTABLE or self._stamp() == self._opened_as

    def _stamp(self) -> tuple[int, int, bool]:
        """What is different once somebody has written."""
        with reported(f"read {self.path}"):
            status = self.path.stat()
            return status.st_mtime_ns, status.st_size, self._log().exists()

    def _check_file(self) -> None:
        """Raise if the file went away; SQLite would go on with one that has no name any more."""
        with reported(f"use {self.path}"):
            if identity(self.path) != self._identity:
                raise StorageError(
                    f"{self.path} is not the file that was opened; was its volume unmounted or replaced?",
                    reason="ESTALE",
                )

    def leave_to_parent(self) -> None:
        """In a forked child: forget the connections without closing them."""
        _parents_connections.extend(self._idle)
        self._idle = []
        self._writing = threading.Lock()


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_parents_connections: list[sqlite3.Connection] = []


def _after_fork() -> None:
    for database in list(_databases):
        database.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)


def _patiently(operation: Callable[[], object]) -> None:
    """Changing the journal mode does not wait by itself for others who open the file at the same time."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            operation()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)


_REASONS = {
    sqlite3.SQLITE_FULL: "ENOSPC",
    sqlite3.SQLITE_BUSY: "EBUSY",
    sqlite3.SQLITE_LOCKED: "EBUSY",
    sqlite3.SQLITE_PROTOCOL: "EBUSY",
    sqlite3.SQLITE_IOERR: "EIO",
    sqlite3.SQLITE_NOMEM: "ENOMEM",
}
_REFUSED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_READ_ONLY_REASONS = ("EROFS", "EACCES")
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)


def _translated(error: sqlite3.Error, path: Path, doing: str) -> LailaError:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    primary = code & 0xFF
    if primary in _DAMAGED:
        return Corrupt(f"{path} is damaged, or not a SQLite database: {error}; restore it from a replica")
    if primary == sqlite3.SQLITE_TOOBIG or isinstance(error, sqlite3.DataError):
        return LimitExceeded(f"cannot {doing} {path}: SQLite says {error}", limit="sqlite_blob")
    reason = _REASONS.get(primary, getattr(error, "sqlite_errorname", type(error).__name__))
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:
        reason = "ENOSPC"  # the log's index could not grow
    elif primary in _REFUSED:
        reason = _refusal(path)
    return StorageError(f"cannot {doing} {path}: {error} ({reason})", reason=reason)


def _refusal(path: Path) -> str:
    """The system's reason behind what SQLite only calls unable to open, or read-only."""
    if path.is_dir():
        return "EISDIR"
    with contextlib.suppress(OSError):
        if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
            return "EROFS"
    return "EACCES"
