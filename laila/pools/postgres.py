"""Entries in PostgreSQL, by psycopg: batches all or nothing, committed before a put returns.

Strategy: an entry is one row with the bytes of its file (recordfile.py); what is beyond its first CHUNK bytes follows
in rows of `laila_chunks`, since a value there ends at 1 GB. A row is found by the hash of its key, because an index
takes short keys only. `swap` is one conditional INSERT, or an UPDATE that compares digests.

Rules
- Whoever changes an entry changes its row first: the row's lock is what keeps its chunks whole. Batches take their
  rows in the order of their hashes, so that two of them do not wait for each other.
- What may be done twice is done again once, on a new connection, when the old one had ended; a swap never is.

How a statement is sent and its answer awaited: connection.py.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple, TypeVar

from laila import buffers
from laila.codec import Encoded
from laila.errors import Corrupt
from laila.pools.base import Capabilities, Pool, check_key
from laila.pools.connection import Address, Connection, Connections
from laila.pools.recordfile import pack, unpack
from laila.pools.server import client, settings, split

CHUNK = 16 << 20
"""Bytes of an entry in one row."""

_SCHEMA = """
SELECT pg_advisory_xact_lock(7810199112030212205);
CREATE TABLE IF NOT EXISTS laila_records (
    pool text NOT NULL,
    id bytea NOT NULL,       -- SHA-256 of the key
    key bytea NOT NULL,      -- UTF-8
    digest bytea NOT NULL,   -- SHA-256 of the content
    size bigint NOT NULL,    -- bytes of the content
    content bytea NOT NULL,  -- its first chunk
    PRIMARY KEY (pool, id)
);
CREATE TABLE IF NOT EXISTS laila_chunks (
    pool text NOT NULL,
    id bytea NOT NULL,
    number bigint NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (pool, id, number),
    FOREIGN KEY (pool, id) REFERENCES laila_records ON DELETE CASCADE
);
ALTER TABLE laila_records ALTER content SET STORAGE EXTERNAL;
ALTER TABLE laila_chunks ALTER data SET STORAGE EXTERNAL;
"""
_INSERT = "INSERT INTO laila_records VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (pool, id) DO "
_INSERT_OR_KEEP = _INSERT + "NOTHING"
_INSERT_OR_REPLACE = _INSERT + (
    "UPDATE SET digest = excluded.digest, size = excluded.size, content = excluded.content"
)
_UPDATE_IF = (
    "UPDATE laila_records SET digest = $4, size = $5, content = $6 "
    "WHERE pool = $1 AND id = $2 AND key = $3 AND digest = $7"
)
_DROP_CHUNKS = "DELETE FROM laila_chunks WHERE pool = $1 AND id = $2"
_ADD_CHUNK = "INSERT INTO laila_chunks VALUES ($1, $2, $3, $4)"
_GROUP = 500  # entries that are asked for in one statement

Result = TypeVar("Result")


class PostgresPool(Pool):
    """Entries at `postgresql://user:password@host:5432/database`, or whatever libpq takes.

    Options, also in the address as `?pool=kept`: `pool`, its name in the database, and `timeout` of one statement. The
    tables `laila_records` and `laila_chunks` are made when they are missing. Connects when first used, and again after
    a loss.

    Durable: `synchronous_commit` is never off, so an acknowledged write is in the server's log on its disk (as long as
    the server runs with `fsync`). `put_many` and `delete_many` are one transaction. Any number of processes and
    machines may use the pool at once.

    Raises BadConfig for an address that cannot be used, and when psycopg is not installed.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(durable=True, blocking=True, shared=True)
    kind: ClassVar[str] = "postgres"

    def __init__(self, url: str, *, pool: str | None = None, timeout: float | None = None) -> None:
        super().__init__()
        client("postgres", "psycopg", "postgres")
        said, url = split(url, ("pool", "timeout"))
        self.settings = settings(said, pool, timeout)
        address = Address.of(url, self.settings.timeout)
        self.server = address.server()
        self._connections = Connections(address, self.server)
        self._preparing = threading.Lock()
        self._prepared = False

    def put(self, key: str, record: Encoded) -> None:
        self.put_many([(key, record)])

    def put_many(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._check_open()
        batch = _in_order({check_key(key): record for key, record in items})

        def store(connection: Connection) -> None:
            for row in batch:
                connection.ask(_INSERT_OR_REPLACE, *row.first(self.settings.pool))
                self._chunks(connection, row, fresh=False)

        if batch:
            self._change("write", store)

    def _put_new(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._check_open()
        batch = _in_order({check_key(key): record for key, record in items})

        def store(connection: Connection) -> None:
            for row in batch:
                if connection.ask(_INSERT_OR_KEEP, *row.first(self.settings.pool)).changed:
                    self._chunks(connection, row, fresh=True)

        if batch:
            self._change("write", store)

    def swap(self, key: str, before: Encoded | None, after: Encoded) -> bool:
        self._check_open()
        raw = check_key(key)
        row = _Row.of(raw, after)
        expected = None if before is None else _Row.of(raw, before).digest

        def exchange(connection: Connection) -> bool:
            values = row.first(self.settings.pool)
            if expected is None:
                changed = connection.ask(_INSERT_OR_KEEP, *values)
            else:
                changed = connection.ask(_UPDATE_IF, *values, expected)
            if changed.changed:
                self._chunks(connection, row, fresh=expected is None)
            return bool(changed.changed)

        return self._change("swap", exchange, repeatable=False)

    def _chunks(self, connection: Connection, row: _Row, *, fresh: bool) -> None:
        """What follows the first chunk; the row is locked by us."""
        if not fresh:
            connection.ask(_DROP_CHUNKS, self.settings.pool, row.id)
        for number, chunk in enumerate(row.others, 1):
            connection.ask(_ADD_CHUNK, self.settings.pool, row.id, number, chunk)

    def delete(self, key: str) -> bool:
        return self.delete_many((key,)) == 1

    def delete_many(self, keys: Sequence[str]) -> int:
        self._check_open()
        ids = sorted({_id(check_key(key)) for key in keys})
        pool = self.settings.pool

        def remove(connection: Connection) -> int:
            return sum(
                connection.ask("DELETE FROM laila_records WHERE pool = $1 AND id = $2", pool, each).changed
                for each in ids
            )

        return self._change("delete", remove, repeatable=False) if ids else 0

    def empty(self) -> None:
        self._check_open()

        def remove(connection: Connection) -> None:
            connection.ask("DELETE FROM laila_records WHERE pool = $1", self.settings.pool)

        self._change("delete", remove)

    def keys(self) -> Iterator[str]:
        self._check_open()
        rows = self._look("list", "SELECT key FROM laila_records WHERE pool = $1", self.settings.pool)
        try:
            return iter([key.decode() for (key,) in rows])
        except UnicodeDecodeError as error:
            raise Corrupt(
                f"pool {self.settings.pool!r} in {self.server} is damaged: a key is not text"
            ) from error

    def count(self) -> int:
        return self._total("count(*)")

    def nbytes(self) -> int:
        return self._total("coalesce(sum(size), 0)::bigint")

    def probe(self, *, write: bool = False) -> None:
        self._check_open()
        self._look("read", "SELECT 1::bigint FROM laila_records WHERE false")
        if write:

            def attempt(connection: Connection) -> None:
                row = _Row.of(b"probe", Encoded(b""))
                connection.ask(_INSERT_OR_REPLACE, *row.first(f"{self.settings.pool}/probe"))
                connection.ask("DELETE FROM laila_records WHERE pool = $1", f"{self.settings.pool}/probe")

            self._change("write", attempt)

    def _total(self, what: str) -> int:
        self._check_open()
        rows = self._look("count", f"SELECT {what} FROM laila_records WHERE pool = $1", self.settings.pool)  # noqa: S608 - ours
        return int.from_bytes(rows[0][0], "big")

    # -- reading -----------------------------------------------------------------------------------------

    def _get(self, key: str) -> Encoded | None:
        return self._get_many((key,))[0]

    def _get_many(self, keys: Sequence[str]) -> list[Encoded | None]:
        self._check_open()
        batch = [check_key(key) for key in keys]
        rows = self._rows(batch, "size, content")
        return [self._record(key, rows[id_]) if (id_ := _id(key)) in rows else None for key in batch]

    def _exists(self, key: str) -> bool:
        return self._exists_many((key,))[0]

    def _exists_many(self, keys: Sequence[str]) -> list[bool]:
        self._check_open()
        batch = [check_key(key) for key in keys]
        rows = self._rows(batch, "size")
        return [_id(key) in rows for key in batch]

    def _rows(self, keys: Sequence[bytes], columns: str) -> dict[bytes, tuple[bytes, ...]]:
        """What the rows of these keys hold, by id."""
        found: dict[bytes, tuple[bytes, ...]] = {}
        ids = list({_id(key): None for key in keys})
        for start in range(0, len(ids), _GROUP):
            some = ids[start : start + _GROUP]
            # Joined, because a list that is compared with each row takes minutes where the planner knows no better.
            rows = self._look(
                "read",
                f"SELECT id, {columns} FROM unnest($2::text::bytea[]) AS wanted (id) "  # noqa: S608 - ours
                "JOIN laila_records USING (id) WHERE pool = $1",
                self.settings.pool,
                "{" + ",".join(f'"\\\\x{each.hex()}"' for each in some) + "}",
            )
            found.update({row[0]: row[1:] for row in rows})
        return found

    def _record(self, key: bytes, row: tuple[bytes, ...]) -> Encoded | None:
        size, content = row
        if int.from_bytes(size, "big") == len(content):
            return unpack(content, key, self._place(key))
        return self._connections.use("read", lambda connection: self._whole(connection, key), repeatable=True)

    def _whole(self, connection: Connection, key: bytes) -> Encoded | None:
        """An entry of several rows, all as they were at one instant; None when it is gone by now."""
        pool, id_ = self.settings.pool, _id(key)
        connection.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        rows = connection.ask(
            "SELECT size, content FROM laila_records WHERE pool = $1 AND id = $2", pool, id_
        ).rows
        if not rows:
            connection.ask("COMMIT")
            return None
        size, content = int.from_bytes(rows[0][0], "big"), rows[0][1]
        (total,) = connection.ask(
            "SELECT coalesce(sum(length(data)), 0)::bigint FROM laila_chunks WHERE pool = $1 AND id = $2",
            pool,
            id_,
        ).rows[0]
        if len(content) + int.from_bytes(total, "big") != size:  # before memory is taken for it
            raise Corrupt(f"{self._place(key)} is damaged: some of its chunks are missing")
        whole = buffers.allocate(size)
        whole[: len(content)] = content
        at = len(content)
        for number in itertools.count(1):
            if at == size:
                break
            rows = connection.ask(
                "SELECT data FROM laila_chunks WHERE pool = $1 AND id = $2 AND number = $3", pool, id_, number
            ).rows
            if not rows or at + len(rows[0][0]) > size:
                raise Corrupt(f"{self._place(key)} is damaged: some of its chunks are missing")
            whole[at : at + len(rows[0][0])] = rows[0][0]
            at += len(rows[0][0])
        connection.ask("COMMIT")
        return unpack(whole, key, self._place(key))

    def _place(self, key: bytes) -> str:
        return f"entry {key[:80].decode(errors='replace')!r} of pool {self.settings.pool!r} in {self.server}"

    # -- transactions ------------------------------------------------------------------------------------

    def _look(self, doing: str, sql: str, *values: str | bytes | int) -> list[tuple[bytes, ...]]:
        self._prepare()
        return self._connections.use(
            doing, lambda connection: connection.ask(sql, *values).rows, repeatable=True
        )

    def _change(
        self, doing: str, operation: Callable[[Connection], Result], *, repeatable: bool = True
    ) -> Result:
        """Run `operation` in a transaction: committed when this returns, as if never begun when it raises (but for a
        StorageError that says that it is not known)."""
        self._prepare()

        def transaction(connection: Connection) -> Result:
            connection.ask("BEGIN ISOLATION LEVEL READ COMMITTED")
            result = operation(connection)
            connection.ask("COMMIT")
            return result

        return self._connections.use(doing, transaction, repeatable=repeatable)

    def _prepare(self) -> None:
        """Make the tables, unless they are there."""
        if self._prepared:
            return
        with self._preparing:
            if self._prepared:
                return

            def make(connection: Connection) -> None:
                there = "SELECT 1::bigint WHERE to_regclass('laila_chunks') IS NOT NULL"
                if not connection.ask(there).rows:
                    connection.ask(f"BEGIN; {_SCHEMA}; COMMIT")

            self._connections.use("prepare", make, repeatable=True)
            self._prepared = True

    def _close(self) -> None:
        self._connections.close()

    def _where(self) -> str:
        return f" {self.server.where} {self.settings.pool}"


def _id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class _Row(NamedTuple):
    """An entry as it lies in the tables."""

    key: bytes
    id: bytes
    digest: bytes
    content: memoryview

    @classmethod
    def of(cls, key: bytes, record: Encoded) -> _Row:
        content = b"".join(pack(key, record))
        return cls(key, _id(key), hashlib.sha256(content).digest(), memoryview(content))

    def first(self, pool: str) -> tuple[str | bytes | memoryview | int, ...]:
        """The row's values."""
        return pool, self.id, self.key, self.digest, len(self.content), self.content[:CHUNK]

    @property
    def others(self) -> Iterator[memoryview]:
        """The chunks after the first one."""
        return (self.content[at : at + CHUNK] for at in range(CHUNK, len(self.content), CHUNK))


def _in_order(batch: dict[bytes, Encoded]) -> list[_Row]:
    return sorted((_Row.of(key, record) for key, record in batch.items()), key=lambda row: row.id)
