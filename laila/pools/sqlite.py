"""Entries in one SQLite file: batches all or nothing, on disk before a put returns.

Strategy: a record is one row; what is beyond its first CHUNK bytes follows in rows of `chunks`, because
SQLite's blobs end at 1 GB and one of 16 MiB is as fast. A checksum over key, lengths and content finds what
SQLite does not: pages whose bytes changed. Triggers keep the totals, so that count and size need no scan.

How the file is opened, shared, locked and survives full disks, read-only mounts and forks: database.py.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from laila import buffers
from laila.codec import Encoded
from laila.errors import Corrupt
from laila.pools.base import Capabilities, Pool, check_key, same
from laila.pools.database import Database

CHUNK = 16 << 20
"""Bytes of a record in one row."""

_APPLICATION = 0x4C61_696C  # "Lail", in the file's header
_VERSION = 1
_SCHEMA = (
    """CREATE TABLE records (
        key BLOB PRIMARY KEY,
        lengths BLOB NOT NULL,      -- u64 little endian each: head, then every buffer
        checksum INTEGER NOT NULL,  -- crc32 of key, lengths, content
        size INTEGER NOT NULL,      -- bytes of the content: head, then every buffer
        content BLOB NOT NULL       -- its first chunk
    )""",
    "CREATE TABLE chunks (key BLOB, number INTEGER, data BLOB NOT NULL, PRIMARY KEY (key, number))",
    "CREATE TABLE totals (entries INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    "INSERT INTO totals VALUES (0, 0)",
    """CREATE TRIGGER added AFTER INSERT ON records BEGIN
        UPDATE totals SET entries = entries + 1, bytes = bytes + new.size; END""",
    """CREATE TRIGGER removed AFTER DELETE ON records BEGIN
        UPDATE totals SET entries = entries - 1, bytes = bytes - old.size; END""",
    """CREATE TRIGGER replaced AFTER UPDATE ON records BEGIN
        UPDATE totals SET bytes = bytes + new.size - old.size; END""",
)
_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO "
_INSERT_OR_KEEP = _INSERT + "NOTHING"
_INSERT_OR_REPLACE = _INSERT + (
    "UPDATE SET lengths = excluded.lengths, checksum = excluded.checksum, "
    "size = excluded.size, content = excluded.content"
)
_SELECT = "SELECT lengths, checksum, size, content FROM records WHERE key = ?"
_EXISTS = "SELECT 1 FROM records WHERE key = ?"

_Result = TypeVar("_Result")


class SqlitePool(Pool):
    """Entries in the SQLite file `path`, made if it is not there; one that cannot be written is only read.

    Durable: a commit is fsynced before a put returns. `put_many` and `delete_many` are one transaction. Any
    number of threads and processes of one machine may use the file at once; not of several machines, whose
    network file systems cannot do what SQLite's log needs. The file keeps the space of deleted entries for
    new ones.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(durable=True, blocking=True, shared=True)
    kind: ClassVar[str] = "sqlite"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path).absolute()
        self._database = Database(self.path, schema=_SCHEMA, application=_APPLICATION, version=_VERSION)

    def put(self, key: str, record: Encoded) -> None:
        self.put_many([(key, record)])

    def put_many(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._check_open()
        batch = {check_key(key): record for key, record in items}

        def store(connection: sqlite3.Connection) -> None:
            for key, record in batch.items():
                connection.execute("DELETE FROM chunks WHERE key = ?", (key,))
                self._insert(connection, _INSERT_OR_REPLACE, key, record)

        if batch:
            self._database.write(store)

    def _put_new(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._check_open()
        batch = {check_key(key): record for key, record in items}

        def store(connection: sqlite3.Connection) -> None:
            for key, record in batch.items():
                if connection.execute(_EXISTS, (key,)).fetchone() is None:
                    self._insert(connection, _INSERT_OR_KEEP, key, record)

        self._database.write(store)

    def swap(self, key: str, before: Encoded | None, after: Encoded) -> bool:
        self._check_open()
        raw = check_key(key)

        def exchange(connection: sqlite3.Connection) -> bool:
            if not same(self._select(connection, raw), before):
                return False
            connection.execute("DELETE FROM chunks WHERE key = ?", (raw,))
            self._insert(connection, _INSERT_OR_REPLACE, raw, after)
            return True

        return self._database.write(exchange)

    def _insert(self, connection: sqlite3.Connection, statement: str, key: bytes, record: Encoded) -> None:
        views = [memoryview(record.head), *(memoryview(buffer) for buffer in record.buffers)]
        lengths = struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views))
        checksum = zlib.crc32(lengths, zlib.crc32(key))
        for view in views:
            checksum = zlib.crc32(view, checksum)
        first, *others = _chunks(views)
        size = sum(view.nbytes for view in views)
        connection.execute(statement, (key, lengths, checksum, size, first))
        for number, chunk in enumerate(others, 1):
            connection.execute("INSERT INTO chunks VALUES (?, ?, ?)", (key, number, chunk))

    def delete(self, key: str) -> bool:
        return self.delete_many((key,)) == 1

    def delete_many(self, keys: Sequence[str]) -> int:
        self._check_open()
        batch = [(check_key(key),) for key in keys]

        def remove(connection: sqlite3.Connection) -> int:
            connection.executemany("DELETE FROM chunks WHERE key = ?", batch)
            return connection.executemany("DELETE FROM records WHERE key = ?", batch).rowcount

        return self._database.write(remove) if batch else 0

    def empty(self) -> None:
        self._check_open()

        def remove(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM chunks")
            connection.execute("DELETE FROM records")

        self._database.write(remove)

    def keys(self) -> Iterator[str]:
        self._check_open()
        rows = self._database.read(
            lambda connection: connection.execute("SELECT key FROM records").fetchall()
        )
        try:
            return iter([bytes(key).decode() for (key,) in rows])
        except (TypeError, ValueError) as error:
            raise Corrupt(f"{self.path} is damaged: a key in it is not text") from error

    def count(self) -> int:
        return self._total("entries")

    def nbytes(self) -> int:
        return self._total("bytes")

    def probe(self, *, write: bool = False) -> None:
        self._total("entries")
        if write:
            self._database.write(lambda connection: connection.execute("UPDATE totals SET bytes = bytes"))

    def _total(self, column: str) -> int:
        self._check_open()
        row = self._database.read(
            lambda connection: connection.execute("SELECT entries, bytes FROM totals").fetchone()
        )
        if row is None or not all(isinstance(total, int) for total in row):
            raise Corrupt(f"{self.path} is damaged: its totals are gone")
        totals: dict[str, int] = dict(zip(("entries", "bytes"), row, strict=True))
        return totals[column]

    # -- reading -----------------------------------------------------------------------------------------

    def _get(self, key: str) -> Encoded | None:
        return self._get_many((key,))[0]

    def _get_many(self, keys: Sequence[str]) -> list[Encoded | None]:
        self._check_open()
        batch = [check_key(key) for key in keys]

        def select(connection: sqlite3.Connection) -> list[Encoded | None]:
            if len(batch) == 1:  # one statement sees one state by itself
                return [self._select(connection, batch[0])]
            return _at_one_instant(connection, lambda: [self._select(connection, key) for key in batch])

        return self._database.read(select)

    def _exists(self, key: str) -> bool:
        return self._exists_many((key,))[0]

    def _exists_many(self, keys: Sequence[str]) -> list[bool]:
        self._check_open()
        batch = [check_key(key) for key in keys]

        def select(connection: sqlite3.Connection) -> list[bool]:
            return [connection.execute(_EXISTS, (key,)).fetchone() is not None for key in batch]

        return self._database.read(select)

    def _select(self, connection: sqlite3.Connection, key: bytes) -> Encoded | None:
        row = connection.execute(_SELECT, (key,)).fetchone()
        if row is None:
            return None
        lengths, checksum, size, content = row
        if not (isinstance(lengths, bytes) and isinstance(size, int) and isinstance(content, bytes)):
            raise self._damaged(key)
        if len(content) < size:
            if not connection.in_transaction:  # several rows: look again, all at one instant
                return _at_one_instant(connection, lambda: self._select(connection, key))
            content = self._assemble(connection, key, content, size)
        if zlib.crc32(content, zlib.crc32(lengths, zlib.crc32(key))) != checksum:
            raise self._damaged(key)
        view = memoryview(content).toreadonly()
        ends = list(itertools.accumulate(struct.unpack(f"<{len(lengths) // 8}Q", lengths)))
        if ends[-1] != len(view):
            raise self._damaged(key)
        slices = tuple(view[start:end] for start, end in itertools.pairwise(ends))
        return Encoded(bytes(view[: ends[0]]), slices)

    def _assemble(self, connection: sqlite3.Connection, key: bytes, first: bytes, size: int) -> memoryview:
        """The whole content of a record of several rows."""
        (others,) = connection.execute(
            "SELECT sum(length(data)) FROM chunks WHERE key = ?", (key,)
        ).fetchone()
        if len(first) + (others or 0) != size:  # before memory is taken for it
            raise self._damaged(key)
        whole = buffers.allocate(size)
        whole[: len(first)] = first
        position = len(first)
        for (chunk,) in connection.execute("SELECT data FROM chunks WHERE key = ? ORDER BY number", (key,)):
            whole[position : position + len(chunk)] = chunk
            position += len(chunk)
        return whole

    def _damaged(self, key: bytes) -> Corrupt:
        return Corrupt(
            f"{self.path} is damaged: entry {key[:80].decode(errors='replace')!r} is not what was stored; "
            f"restore the file from a replica"
        )

    def _close(self) -> None:
        self._database.close()

    def _where(self) -> str:
        return f" {self.path}"


def _at_one_instant(connection: sqlite3.Connection, operation: Callable[[], _Result]) -> _Result:
    """Run statements that must all see the same state."""
    connection.execute("BEGIN")
    result = operation()
    connection.execute("COMMIT")
    return result


def _chunks(views: Iterable[memoryview]) -> Iterator[bytes | memoryview]:
    """The bytes of `views` one after the other, in chunks of CHUNK bytes and a last one; at least one."""
    pending: list[memoryview] = []
    room = CHUNK
    for view in views:
        rest = view
        while rest.nbytes >= room:
            yield _joined([*pending, rest[:room]])
            rest, pending, room = rest[room:], [], CHUNK
        pending.append(rest)
        room -= rest.nbytes
    yield _joined(pending)


def _joined(views: list[memoryview]) -> bytes | memoryview:
    return views[0] if len(views) == 1 else b"".join(views)
