"""Advisory locks of PostgreSQL, by psycopg: a connection for each hold, and a row with the fencing token for each name.

Strategy: the lock is `pg_advisory_lock`, or its shared form, on 64 bits hashed from prefix and name; the server queues
who waits, and lets go when the connection ends. Under the lock the row of the name in table `laila_locks` gets the next
token and who holds it. Whether that holder is alive is never read from the row, but from `pg_locks`.

Rules
- One connection holds one lock, so as many connections are open as there are holds and waiters in a process (mind the
  server's max_connections); a few are kept for the next ones.
- Two names with the same 64 bits (one chance in 10^19 for a pair) exclude each other needlessly; nothing worse.
- Nothing waits longer than its caller allows and one request takes.

What it does not promise: a hold is as long as its connection. A holder that is stopped keeps it; one whose machine
is gone, or cut off, loses it after about `ttl` seconds (TCP keep-alives on both sides), and its next `lost` or
`check` says so. A server that fails over knows nothing of the locks; tokens are in a table, and rise all the same.
Behind a pooler that shares connections between transactions session locks do not work: connect to the server itself.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time

from laila.errors import LockUnavailable

from .base import Capabilities, Hold, Holder, Lock, LockService, Wait
from .postgres_session import SLICE, Address, Session
from .server import Settings, client

IDLE = 4
"""Connections that are kept open for the next hold."""
NO_TABLE = "42P01"
TIMED_OUT = "55P03"
_CREATE = """
SELECT pg_advisory_xact_lock({number});
CREATE TABLE IF NOT EXISTS laila_locks (
  name text PRIMARY KEY, token bigint NOT NULL, node text NOT NULL, host text NOT NULL, pid bigint NOT NULL,
  since double precision NOT NULL, purpose text NOT NULL, backend integer NOT NULL)
"""
_SEAL = """
INSERT INTO laila_locks AS old (name, token, node, host, pid, since, purpose, backend)
VALUES ($1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $2, $3, $4::bigint, $5::float8, $6,
        pg_backend_pid())
ON CONFLICT (name) DO UPDATE SET token = greatest(old.token + 1, excluded.token), node = excluded.node,
  host = excluded.host, pid = excluded.pid, since = excluded.since, purpose = excluded.purpose,
  backend = excluded.backend
RETURNING token
"""
_LOCKS = """
  l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.classid = $1::bigint::oid AND l.objid = $2::bigint::oid
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_HOLDER = f"""
SELECT r.node, r.host, r.pid, r.since, r.purpose, r.token FROM laila_locks r JOIN pg_locks l ON l.pid = r.backend
WHERE r.name = $3 AND l.mode = 'ExclusiveLock' AND {_LOCKS}
"""  # noqa: S608  # no value is in it
_READERS = f"SELECT count(*) FROM pg_locks l WHERE l.mode = 'ShareLock' AND {_LOCKS}"  # noqa: S608  # no value is in it


class PostgresService(LockService):
    """Locks at `postgresql://user@host/database`, with whatever else libpq takes there; PostgreSQL 12 or later.

    Options, also in the address as `?ttl=5`: `ttl` seconds after which a holder whose machine vanished is let go,
    `timeout` of one request, `prefix` of the names. Makes the table `laila_locks` where it is missing; all nodes need
    the same database and schema. Raises BadConfig; connects when first used.
    """

    kind = "postgresql"
    capabilities = Capabilities(shared=True, leased=False, survives_holder_pause=True)

    def __init__(
        self,
        url: str,
        *,
        node: str = "",
        ttl: float | None = None,
        timeout: float | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(node)
        client("postgresql", "psycopg", "postgres")
        self.settings, rest = Settings.of(url, ttl, timeout, prefix)
        self._address = Address.of(rest, self.settings.ttl, self.settings.timeout)
        self.server = self._address.server()
        self._open()

    def _open(self) -> None:
        self._mutex = threading.Condition()
        self._busy: set[Session] = set()
        self._idle: list[Session] = []
        self._waiting = 0

    def _make(self, name: str, timeout: float | None) -> PostgresLock:
        return PostgresLock(self, name, timeout)

    def session(self, *, fresh: bool = False) -> Session:
        """A connection for the caller alone; a new one when `fresh`, or when none is idle."""
        dead = []
        found = None
        with self._mutex:
            while self._idle and found is None and not fresh:
                session = self._idle.pop()
                if session.alive():
                    found = session
                else:
                    dead.append(session)
        for session in dead:
            session.close()
        if found is None:
            found = Session(self._address, self.server)
        with self._mutex:
            self._busy.add(found)
        return found

    def back(self, session: Session) -> None:
        """The end of a `session()`: it is kept for the next, if it holds nothing, else closed."""
        with self._mutex:
            self._busy.discard(session)
            keep = not session.broken and not self.closed and len(self._idle) < IDLE
            if keep:
                session.used = True
                self._idle.append(session)
        if not keep:
            session.close()

    def enter(self) -> None:
        with self._mutex:
            self._waiting += 1

    def leave(self) -> None:
        with self._mutex:
            self._waiting -= 1
            self._mutex.notify_all()

    def _shut(self) -> None:
        with self._mutex:  # those who wait see within a slice that it was closed
            self._mutex.wait_for(lambda: self._waiting == 0, self.settings.timeout + SLICE)
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def _after_fork(self) -> None:
        for session in [*self._busy, *self._idle]:
            session.orphan()
        self._open()

    def __repr__(self) -> str:
        return f"<PostgresService {self.server.where}{' closed' if self.closed else ''}>"


class PostgresLock(Lock):
    """One name in PostgreSQL. Waiting is in the server's queue, about in order of arrival."""

    service: PostgresService

    def __init__(self, service: PostgresService, name: str, timeout: float | None) -> None:
        super().__init__(service, name, timeout)
        self.row = service.settings.prefix + name
        self.number = number(self.row)

    def _take(self, wait: Wait, shared: bool, purpose: str) -> PostgresHold | None:
        self.service.enter()
        try:
            session = self.service.session()
            try:
                return self._taken(session, wait, shared, purpose)
            except LockUnavailable:
                if not session.stale:
                    raise
            return self._taken(self.service.session(fresh=True), wait, shared, purpose)
        finally:
            self.service.leave()

    def _taken(self, session: Session, wait: Wait, shared: bool, purpose: str) -> PostgresHold | None:
        hold = None
        try:
            if self._lock(session, wait, shared):
                since = time.time()
                token = self._last(session) if shared else self._seal(session, since, purpose)
                hold = PostgresHold(self, session, token, shared=shared, since=since, purpose=purpose)
        except BaseException:
            session.broken = True  # closing it gives back what it may hold
            raise
        finally:
            if hold is None:
                self.service.back(session)
        return hold

    def _lock(self, session: Session, wait: Wait, shared: bool) -> bool:
        """Whether the session has the lock."""
        form = "_shared" if shared else ""
        answer = session.ask(f"SELECT pg_try_advisory_lock{form}({self.number})")
        if answer.rows[0][0] == "t":
            return True
        if wait.over:
            return False
        service = self.service
        left = None if wait.timeout is None else wait.left(wait.timeout)
        milliseconds = 0 if left is None else max(1, min(math.ceil(left * 1000), 2**31 - 1))
        answer = session.ask(
            f"SET lock_timeout = {milliseconds}; SELECT pg_advisory_lock{form}({self.number})",
            allowed=(TIMED_OUT,),
            most=None if left is None else left + service.settings.timeout,
            stop=lambda: wait.given_up or service.closed,
        )
        service._require_open()
        return bool(answer.rows)

    def _seal(self, session: Session, since: float, purpose: str) -> int:
        """The next token, written into the row together with who holds it."""
        own = Holder.here(self.service.node, 0, since, purpose)
        values = (self.row, own.node, own.host, str(own.pid), repr(own.since), own.purpose)
        answer = session.ask(_SEAL, *values, allowed=(NO_TABLE,))
        if answer.sqlstate:
            session.ask(_CREATE.format(number=number("laila_locks")))
            answer = session.ask(_SEAL, *values)
        return int(answer.rows[0][0] or 0)

    def _last(self, session: Session) -> int:
        answer = session.ask("SELECT token FROM laila_locks WHERE name = $1", self.row, allowed=(NO_TABLE,))
        return int(answer.rows[0][0] or 0) if answer.rows else 0

    def _asked(self, sql: str, *values: str) -> list[tuple[str | None, ...]]:
        """What the server says, on a connection that is free."""
        session = self.service.session()
        try:
            return session.ask(sql, *values, allowed=(NO_TABLE,)).rows
        except LockUnavailable:
            if not session.stale:
                raise
        finally:
            self.service.back(session)
        session = self.service.session(fresh=True)
        try:
            return session.ask(sql, *values, allowed=(NO_TABLE,)).rows
        finally:
            self.service.back(session)

    def _halves(self) -> tuple[str, str]:
        return str(self.number >> 32 & 0xFFFFFFFF), str(self.number & 0xFFFFFFFF)

    def holder(self) -> Holder | None:
        for node, host, pid, since, purpose, token in self._asked(_HOLDER, *self._halves(), self.row):
            return Holder(
                node or "", host or "", int(pid or 0), float(since or 0), purpose or "", int(token or 0)
            )
        return None

    def in_the_way(self) -> str:
        if holder := self.holder():
            return str(holder)
        readers = self._asked(_READERS, *self._halves())[0][0]
        return f"{readers} shared holders" if readers != "0" else ""


def number(text: str) -> int:
    """64 bits of its BLAKE2b hash, signed, as advisory locks are numbered."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


class PostgresHold(Hold):
    """An advisory lock of one connection. `lost` asks the server; no answer within the service's timeout is a loss."""

    __slots__ = ("_asking", "_session")
    _lock: PostgresLock

    def __init__(
        self, lock: PostgresLock, session: Session, token: int, *, shared: bool, since: float, purpose: str
    ) -> None:
        super().__init__(lock, token, shared=shared, since=since, purpose=purpose)
        self._asking = threading.Lock()
        self._session: Session | None = session

    def _find_loss(self) -> str:
        with self._asking:
            if self._session is None:
                return "it was released"
            try:
                answer = self._session.ask(
                    "SELECT pg_backend_pid(), (SELECT token FROM laila_locks WHERE name = $1)",
                    self._lock.row,
                    allowed=(NO_TABLE,),
                )
            except LockUnavailable as error:
                self._session.close()  # where the server lives, it lets go now, and not at the release
                return f"its connection ended ({error})"
            if not answer.rows:
                return ""
            backend, token = answer.rows[0]
            if int(backend or 0) != self._session.backend:
                return "a pooler gave its connection to somebody else"
            return "somebody else took it since" if int(token or 0) > self.token else ""

    def _give_back(self) -> None:
        with self._asking:
            session, self._session = self._session, None
        if session is None:
            return
        form = "_shared" if self.shared else ""
        if not session.broken:
            try:
                answer = session.ask(f"SELECT pg_advisory_unlock{form}({self._lock.number})")
                session.broken = answer.rows != [("t",)]
            except LockUnavailable:
                session.broken = True
        self._lock.service.back(session)
