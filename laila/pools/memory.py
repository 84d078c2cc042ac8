"""Entries in this process's memory.

Strategy: one dict. A read is one dict lookup without a lock; a write takes a lock for the few instructions
that keep the byte count and the bounds true. Closing swaps nothing under readers: the dict is emptied, so
every read misses, and only a miss looks at `closed` and upstream.

Buffers are kept, never copied. Records are immutable by contract (see base), and so that one reader cannot
change what the next one gets, a writable buffer is handed out as a read-only view of itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import ClassVar

from laila.codec import Encoded
from laila.errors import LimitExceeded
from laila.pools.base import Capabilities, Pool, check_key, same

_SHORT_KEY = 256  # characters; an ASCII key of up to this many needs no look at MAX_KEY_BYTES


def _size(record: Encoded) -> int:
    head, buffers = record
    return len(head) + sum(memoryview(buffer).nbytes for buffer in buffers) if buffers else len(head)


def _frozen(record: Encoded) -> Encoded:
    """The same record over the same memory, through which nothing can be written."""
    buffers = (b if type(b) is bytes else memoryview(b).toreadonly() for b in record.buffers)
    return Encoded(record.head, tuple(buffers))


class MemoryPool(Pool):
    """Entries in this process's memory; gone when it ends.

    `max_entries` and `max_bytes` (heads and buffers) bound it: a put that would cross a bound raises
    LimitExceeded and changes nothing; nothing is ever evicted.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(durable=False, blocking=False, shared=False)
    kind: ClassVar[str] = "memory"

    def __init__(self, *, max_entries: int | None = None, max_bytes: int | None = None) -> None:
        super().__init__()
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self._records: dict[str, Encoded] = {}
        self._nbytes = 0
        self._writing = threading.Lock()

    def get(self, key: str) -> Encoded | None:
        record = self._records.get(key)
        if record is None:
            if self._closed:
                self._check_open()
            if self._upstream is not None:
                return super().get(key)
            check_key(key)
        return record

    def put(self, key: str, record: Encoded) -> None:
        if type(key) is not str or len(key) > _SHORT_KEY or not key.isascii():
            check_key(key)
        head, buffers = record
        size = len(head)
        if buffers:
            record = _frozen(record)
            size = _size(record)
        records = self._records
        with self._writing:
            old = records.get(key)
            grown = size
            if old is not None:
                grown -= _size(old) if old[1] else len(old[0])
            if self._closed or self.max_entries is not None or self.max_bytes is not None:
                self._check_room(int(old is None), grown)
            records[key] = record
            self._nbytes += grown

    def put_many(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._store_batch(items, replace=True)

    def _put_new(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._store_batch(items, replace=False)

    def swap(self, key: str, before: Encoded | None, after: Encoded) -> bool:
        check_key(key)
        after = _frozen(after)
        with self._writing:
            self._check_open()
            old = self._records.get(key)
            if not same(old, before):
                return False
            grown = _size(after) - (_size(old) if old is not None else 0)
            self._check_room(int(old is None), grown)
            self._records[key] = after
            self._nbytes += grown
        return True

    def _store_batch(self, items: Sequence[tuple[str, Encoded]], *, replace: bool) -> None:
        batch: dict[str, Encoded] = {}
        for key, record in items:
            check_key(key)
            batch[key] = _frozen(record) if record.buffers else record
        with self._writing:
            records = self._records
            if not replace:
                batch = {key: record for key, record in batch.items() if key not in records}
            old = [records[key] for key in batch if key in records]
            grown = sum(map(_size, batch.values())) - sum(map(_size, old))
            self._check_room(len(batch) - len(old), grown)
            records.update(batch)
            self._nbytes += grown

    def _check_room(self, entries: int, grown: int) -> None:
        """Called under the lock: raise if `entries` more records, or `grown` more bytes, cross a bound."""
        self._check_open()
        count, nbytes = len(self._records) + entries, self._nbytes + grown
        if self.max_entries is not None and entries > 0 and count > self.max_entries:
            raise LimitExceeded(
                f"{self!r} is full: {count} entries would cross max_entries={self.max_entries}",
                limit="max_entries", allowed=self.max_entries, got=count,
            )  # fmt: skip
        if self.max_bytes is not None and grown > 0 and nbytes > self.max_bytes:
            raise LimitExceeded(
                f"{self!r} is full: {nbytes} bytes would cross max_bytes={self.max_bytes}",
                limit="max_bytes", allowed=self.max_bytes, got=nbytes,
            )  # fmt: skip

    def delete(self, key: str) -> bool:
        return self.delete_many((key,)) == 1

    def delete_many(self, keys: Sequence[str]) -> int:
        with self._writing:
            self._check_open()
            gone = [record for key in keys if (record := self._records.pop(key, None)) is not None]
            self._nbytes -= sum(map(_size, gone))
        return len(gone)

    def empty(self) -> None:
        with self._writing:
            self._check_open()
            self._records.clear()
            self._nbytes = 0

    def keys(self) -> Iterator[str]:
        self._check_open()
        return iter(list(self._records))

    def count(self) -> int:
        self._check_open()
        return len(self._records)

    def nbytes(self) -> int:
        self._check_open()
        return self._nbytes

    def probe(self, *, write: bool = False) -> None:
        self._check_open()

    def _get(self, key: str) -> Encoded | None:
        self._check_open()
        check_key(key)
        return self._records.get(key)

    def _get_many(self, keys: Sequence[str]) -> list[Encoded | None]:
        self._check_open()
        found = list(map(self._records.get, keys))
        if None in found:
            for key, record in zip(keys, found, strict=True):
                if record is None:
                    check_key(key)
        return found

    def _exists(self, key: str) -> bool:
        self._check_open()
        if key in self._records:
            return True
        check_key(key)
        return False

    def _close(self) -> None:
        with self._writing:
            self._records.clear()
            self._nbytes = 0


DefaultPool = MemoryPool
