"""Connections to PostgreSQL, by psycopg, for the postgres pool: each asks, and never waits for longer than it may.

Strategy: psycopg's own `execute` waits for as long as the server likes; so statements are sent, and their results
awaited, through its `pq` layer, and values go and come in binary. A connection serves one operation at a time and goes
back to a stack: as many are open as operations ran at once. After any error a connection is closed, not used again:
nobody knows what the server still does for it, and closing it is what ends a transaction.

A forked child never uses its parent's connections: they are put aside, and the child opens its own.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from laila.errors import BadConfig, StorageError
from laila.pools.server import Server, system_reason

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

EXAMPLE = "postgresql://user:password@host:5432/database"
_TEXT, _BYTES, _NUMBER = 25, 17, 20  # PostgreSQL's numbers of the types
_BINARY = 1
_ALWAYS_SYNC = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
_REASONS = {
    "53100": "ENOSPC", "53200": "ENOMEM", "53300": "EAGAIN", "25006": "EROFS", "42501": "EACCES", "57014": "ETIMEDOUT",
    "55P03": "EBUSY", "40001": "EBUSY", "40P01": "EBUSY", "58030": "EIO", "3D000": "ENOENT", "42P01": "ENOENT",
    "42703": "EINVAL",
}  # fmt: skip
_CLASSES = {"28": "EACCES", "08": "ENOTCONN", "57": "ECONNRESET", "58": "EIO", "XX": "EIO"}
_SPOKEN = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
    errno.EPIPE,
)
_BEGIN_AGAIN = ("40001", "40P01")
"""The server ended a transaction for the sake of another one."""
MAX_TRIES = 5
"""How often a transaction begins anew."""
UNKNOWN = "; it may have been done all the same: look before trying again"

Result = TypeVar("Result")


class Failed(Exception):
    """A statement that failed, or an answer that did not come. Only here: callers get a StorageError."""

    def __init__(self, error: BaseException, sqlstate: str = "") -> None:
        super().__init__(str(error))
        self.error = error
        self.sqlstate = sqlstate

    @property
    def lost(self) -> bool:
        """The connection ended, so another one may do better."""
        if self.sqlstate:
            return self.sqlstate[:3] == "57P" or self.sqlstate[:2] == "08"
        return not isinstance(self.error, TimeoutError)

    @property
    def begin_again(self) -> bool:
        return self.sqlstate in _BEGIN_AGAIN

    @property
    def reason(self) -> str:
        if not self.sqlstate:
            return _spoken_reason(str(self.error)) or system_reason(self.error)
        return _REASONS.get(self.sqlstate) or _CLASSES.get(self.sqlstate[:2]) or f"SQLSTATE {self.sqlstate}"


def _spoken_reason(text: str) -> str:
    """libpq tells why it could not connect in words only: the system's, or the server's."""
    for code in _SPOKEN:
        if os.strerror(code) in text:
            return errno.errorcode[code]
    if "timeout expired" in text:
        return "ETIMEDOUT"
    return "EACCES" if "authentication" in text or "pg_hba.conf" in text or "password" in text else ""


class Answer(NamedTuple):
    """Rows of binary values, and how many rows were changed."""

    rows: list[tuple[bytes, ...]]
    changed: int


@dataclass(frozen=True, slots=True)
class Address:
    """What libpq takes, and the seconds that a statement may go without an answer."""

    parameters: dict[str, Any] = field(repr=False)
    timeout: float

    @classmethod
    def of(cls, url: str, timeout: float) -> Address:
        """Raises BadConfig, which shows no password."""
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        pause = max(1, int(timeout / 4))
        defaults = {
            "connect_timeout": max(2, math.ceil(timeout)),
            "keepalives_idle": pause * 2,
            "keepalives_interval": pause,
            "keepalives_count": 2,
            "tcp_user_timeout": int(timeout * 1000),
            "application_name": "laila",
            "target_session_attrs": "read-write",
        }
        try:
            given = conninfo_to_dict(url)
            if not given:
                raise psycopg.ProgrammingError("it is empty")
        except psycopg.Error:
            raise BadConfig(f"this is no address of PostgreSQL; write it as {EXAMPLE}") from None
        return cls({**defaults, **given, "client_encoding": "utf8"}, timeout)

    def server(self) -> Server:
        given = self.parameters
        hosts = str(given.get("host") or given.get("hostaddr") or "localhost").split(",")
        ports = str(given.get("port") or 5432).split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        where = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=False))
        return Server("PostgreSQL", where, str(given.get("password") or ""))


class Connection:
    """One connection. Raises Failed. One operation at a time uses it."""

    def __init__(self, address: Address) -> None:
        import psycopg

        self._timeout = address.timeout
        self._failures = (psycopg.Error, OSError)
        try:
            self._connection = psycopg.connect(**address.parameters, autocommit=True)
        except self._failures as error:
            raise Failed(error, getattr(error, "sqlstate", "") or "") from error
        try:
            self.ask(_ALWAYS_SYNC)
        except BaseException:
            self.close()
            raise

    @property
    def _pg(self) -> PGconn:
        return self._connection.pgconn

    def ask(self, sql: str, *values: str | bytes | memoryview | int) -> Answer:
        """The answer to a statement; several are allowed where there are no values."""
        try:
            if values or not sql.startswith("BEGIN;"):
                types, formats, raw = zip(*map(_parameter, values), strict=True) if values else ((), (), ())
                self._pg.send_query_params(sql.encode(), raw, types, formats, _BINARY)
            else:
                self._pg.send_query(sql.encode())
            results = self._results()
        except self._failures as error:
            raise Failed(error) from error
        return self._answer(results)

    def _results(self) -> list[PGresult]:
        """All results; the time limit begins anew whenever some bytes have come or gone."""
        results: list[PGresult] = []
        poller = select.poll()
        until = time.monotonic() + self._timeout
        while True:
            waiting = self._pg.flush()
            if not self._pg.is_busy():
                result = self._pg.get_result()
                if result is None:
                    return results
                results.append(result)
                continue
            poller.register(self._pg.socket, select.POLLIN | (select.POLLOUT if waiting else 0))
            if poller.poll(max(0.0, until - time.monotonic()) * 1000):
                until = time.monotonic() + self._timeout
            elif time.monotonic() >= until:
                raise TimeoutError("it did not answer in time")
            self._pg.consume_input()

    def _answer(self, results: list[PGresult]) -> Answer:
        from psycopg.pq import DiagnosticField, ExecStatus

        rows: list[tuple[bytes, ...]] = []
        count = 0
        for result in results:
            if result.status in (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE):
                sqlstate = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
                message = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"the connection ended"
                raise Failed(RuntimeError(message.decode(errors="replace")), sqlstate)
            count = result.command_tuples or 0
            rows = [
                tuple(result.get_value(row, column) or b"" for column in range(result.nfields))
                for row in range(result.ntuples)
            ]
        return Answer(rows, count)

    def alive(self) -> bool:
        """Whether it looks usable, without asking: a server that ended it has written so."""
        poller = select.poll()
        try:
            poller.register(self._pg.socket, select.POLLIN)
        except self._failures:
            return False
        return not poller.poll(0)

    def close(self) -> None:
        self._connection.close()

    def orphan(self) -> None:
        """In a forked child: close the copy of the parent's socket, and say nothing through it."""
        with contextlib.suppress(*self._failures):
            os.close(self._pg.socket)


def _parameter(value: str | bytes | memoryview | int) -> tuple[int, int, bytes]:
    """Type, format and bytes."""
    if isinstance(value, str):
        return _TEXT, _BINARY, value.encode()
    if isinstance(value, int):
        return _NUMBER, _BINARY, value.to_bytes(8, "big", signed=True)
    return _BYTES, _BINARY, bytes(value)


class Connections:
    """As many as are needed at once. Safe under threads."""

    def __init__(self, address: Address, server: Server) -> None:
        self._address = address
        self._server = server
        self._idle: list[Connection] = []
        self._closed = False
        _everywhere.add(self)

    def use(self, doing: str, operation: Callable[[Connection], Result], *, repeatable: bool) -> Result:
        """What `operation` returns; it is carried out again when the connection was lost, if it may be, and when the
        server ended its transaction for another one's sake. Raises StorageError."""
        lost, ended = 0, 0
        while True:
            try:
                connection = self._borrow()
            except Failed as failed:
                failure = self._failure(doing, failed, "")
                break
            try:
                result = operation(connection)
            except Failed as failed:
                connection.close()
                if failed.begin_again and ended < MAX_TRIES:
                    ended += 1
                    continue
                if failed.lost and repeatable and not lost:
                    lost += 1
                    continue
                failure = self._failure(doing, failed, "" if repeatable or failed.sqlstate else UNKNOWN)
                break
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)
            if self._closed:
                self.close()
            return result
        raise failure

    def _borrow(self) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return Connection(self._address)
            if connection.alive():
                return connection
            connection.close()

    def _failure(self, doing: str, failed: Failed, unless: str) -> StorageError:
        if failed.sqlstate and not failed.lost and failed.reason != "EACCES":
            advice = "see what its log says"
        else:
            advice = f"see that it runs and lets this user in{unless}"
        return self._server.failed(doing, failed.error, failed.reason, advice)

    def close(self) -> None:
        """Close every connection, those at work when they are done."""
        self._closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def leave_to_parent(self) -> None:
        """In a forked child: the connections are the parent's."""
        for connection in self._idle:
            connection.orphan()
        _parents.extend(self._idle)
        self._idle = []


_everywhere: weakref.WeakSet[Connections] = weakref.WeakSet()
_parents: list[Connection] = []


def _after_fork() -> None:
    for connections in list(_everywhere):
        connections.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
