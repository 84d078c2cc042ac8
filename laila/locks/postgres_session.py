"""One connection to PostgreSQL, by psycopg: it asks, never for longer than it may, and can be left in the middle.

psycopg's own `execute` waits for as long as the server likes; so statements are sent, and their results awaited,
through its `pq` layer. After an answer that did not come, or that was cancelled, a session is broken: nobody knows what
the server still does for it, and closing it is what makes the server let go.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from laila.errors import BadConfig

from .server import Server

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

SLICE = 0.25
"""Seconds after which who waits looks whether it should go on."""
EXAMPLE = "postgresql://user:password@host:5432/database"
_SETTINGS = """
SELECT set_config(name, value, false) FROM pg_settings JOIN (VALUES
  ('statement_timeout', '0'), ('idle_session_timeout', '0'), ('idle_in_transaction_session_timeout', '0'),
  ('transaction_timeout', '0'), ('client_connection_check_interval', $1), ('tcp_user_timeout', $2),
  ('tcp_keepalives_idle', $3), ('tcp_keepalives_interval', $4), ('tcp_keepalives_count', '2')
) AS wanted (name, value) USING (name)
"""
"""Those that this server has: it must not end an idle session, and must notice when a client's machine is gone."""


class Answer(NamedTuple):
    """Rows as text; `sqlstate` is "" when all went well."""

    rows: list[tuple[str | None, ...]]
    sqlstate: str


@dataclass(frozen=True, slots=True)
class Address:
    """What libpq takes, with keep-alives that find a dead server within `ttl` seconds."""

    parameters: dict[str, Any] = field(repr=False)
    ttl: float
    timeout: float

    @classmethod
    def of(cls, url: str, ttl: float, timeout: float) -> Address:
        """Raises BadConfig, which shows no password."""
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        idle, interval = _keepalives(ttl)
        defaults = {
            "connect_timeout": max(2, math.ceil(timeout)),
            "keepalives_idle": idle,
            "keepalives_interval": interval,
            "keepalives_count": 2,
            "tcp_user_timeout": int(ttl * 1000),
            "application_name": "laila",
            "target_session_attrs": "read-write",
        }
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error:
            raise BadConfig(f"this is no address of PostgreSQL; write it as {EXAMPLE}") from None
        return cls({**defaults, **given, "client_encoding": "utf8"}, ttl, timeout)

    def server(self) -> Server:
        given = self.parameters
        hosts = str(given.get("host") or given.get("hostaddr") or "localhost").split(",")
        ports = str(given.get("port") or 5432).split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        where = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=False))
        return Server("PostgreSQL", where, str(given.get("password") or ""))


def _keepalives(ttl: float) -> tuple[int, int]:
    """Idle seconds before the first probe, and between the two probes: together about `ttl`."""
    return max(1, int(ttl / 2)), max(1, int(ttl / 4))


class Session:
    """A connection. Raises LockUnavailable when it cannot be made. One thread at a time asks; others wait."""

    def __init__(self, address: Address, server: Server) -> None:
        import psycopg

        self._server = server
        self._timeout = address.timeout
        self._mutex = threading.Lock()
        self.broken = False
        """Whether it must be closed, not used again."""
        self.used = False
        """Whether it was given back before."""
        self.stale = False
        """Whether it had ended while nobody used it, and its locks with it: worth another try with a new one."""
        self._failures = (psycopg.Error, OSError)
        try:
            self._connection = psycopg.connect(**address.parameters, autocommit=True)
        except self._failures as error:
            failure = server.failed(error)
        else:
            idle, interval = _keepalives(address.ttl)
            milliseconds = str(int(address.ttl * 1000))
            try:
                self.ask(_SETTINGS, milliseconds, milliseconds, str(idle), str(interval))
            except BaseException:
                self.close()
                raise
            return
        raise failure

    @property
    def _pg(self) -> PGconn:
        return self._connection.pgconn

    @property
    def backend(self) -> int:
        """The process id at the server."""
        return self._pg.backend_pid

    def ask(
        self,
        sql: str,
        *values: str,
        allowed: tuple[str, ...] = (),
        most: float | None = -1.0,
        stop: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """The answer to a statement, or to several without values. SQLSTATEs that are `allowed` are answers too.

        `most` seconds are waited, -1 for the service's timeout, None for no end; less when `stop()` becomes true, and
        then the statement is cancelled and SQLSTATE "" comes without rows. Raises LockUnavailable.
        """
        until = None if most is None else time.monotonic() + (self._timeout if most < 0 else most)
        with self._mutex:
            try:
                if values:
                    self._pg.send_query_params(sql.encode(), [value.encode() for value in values])
                else:
                    self._pg.send_query(sql.encode())
                results = self._results(until, stop)
            except self._failures as error:
                self.broken = True
                self.stale = self.used and not isinstance(error, TimeoutError)
                failure = self._server.failed(error)
            except BaseException:  # an interrupt: the answer is still on its way
                self.broken = True
                raise
            else:
                return self._answer(results, allowed)
        raise failure

    def _results(self, until: float | None, stop: Callable[[], bool]) -> list[PGresult]:
        results: list[PGresult] = []
        poller = select.poll()
        while True:
            waiting = self._pg.flush()
            if not self._pg.is_busy():
                result = self._pg.get_result()
                if result is None:
                    return results
                results.append(result)
                continue
            if stop():
                self._cancel()
                return []
            rest = SLICE if until is None else min(SLICE, until - time.monotonic())
            if rest <= 0:
                raise TimeoutError("it did not answer in time")
            poller.register(self._pg.socket, select.POLLIN | (select.POLLOUT if waiting else 0))
            poller.poll(rest * 1000)
            self._pg.consume_input()

    def _cancel(self) -> None:
        """A cancelled session is broken: the signal may arrive late and hit another statement."""
        self.broken = True
        with contextlib.suppress(*self._failures):  # closing the connection ends the statement as well, later
            self._connection.cancel_safe(timeout=self._timeout)

    def _answer(self, results: list[PGresult], allowed: tuple[str, ...]) -> Answer:
        from psycopg.pq import DiagnosticField as Field

        rows: list[tuple[str | None, ...]] = []
        for result in results:
            if code := result.error_field(Field.SQLSTATE):
                sqlstate = code.decode()
                if sqlstate in allowed:
                    return Answer([], sqlstate)
                reason = (result.error_field(Field.MESSAGE_PRIMARY) or b"").decode(errors="replace")
                raise self._server.failed(RuntimeError(f"{reason} (SQLSTATE {sqlstate})"))
            rows = [
                tuple(
                    None if (value := result.get_value(row, column)) is None else value.decode()
                    for column in range(result.nfields)
                )
                for row in range(result.ntuples)
            ]
        return Answer(rows, "")

    def alive(self) -> bool:
        """Whether it looks usable, without asking: a server that ended it has written so."""
        if self.broken:
            return False
        poller = select.poll()
        poller.register(self._pg.socket, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """End it; the server lets go of its locks."""
        self.broken = True
        self._connection.close()

    def orphan(self) -> None:
        """In a forked child: close the copy of the parent's socket, and say nothing through it."""
        self.broken = True
        with contextlib.suppress(*self._failures):
            os.close(self._pg.socket)
        _PARENTS.append(self)


_PARENTS: list[Session] = []
"""Sessions of the process that forked this one: kept, so that nothing is ever done with them."""
