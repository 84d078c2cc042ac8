"""What every pool is: a map from keys to encoded records, with read-through to the pool on its right.

Strategy: a store implements the handful of *local* operations at the end of `Pool` and says in `capabilities`
what it promises. Read-through, batches, the user level and closing live here once, so all stores behave alike
and one conformance suite (tests/pools/pool_conformance.py) holds for all of them.

Rules
- A record is immutable from the moment it is put: pools keep and hand out its buffers without copying them.
  Entries snapshot their data, so the user level keeps this rule by itself.
- Reads (`get`, `get_many`, `exists`, `[]`, `in`) cascade to the right. `get` and `get_many` fill every pool
  on the way with what was found, and never overwrite what a writer put there meanwhile.
- Writes, `swap`, deletes, `keys`, `count`, `nbytes` and `empty` are local. So a forgotten key comes back from
  upstream when it is there too: forget it in each pool that holds it.
- A fill that fails (a full disk, a read-only or bounded pool) does not fail the read, whose answer is known;
  it is counted in `fill_failures` and kept in `last_fill_failure`.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self

from laila.codec import Encoded
from laila.entries import Entry, constant
from laila.errors import BadValue, EntryNotFound, LailaError, LimitExceeded, PoolClosed

MAX_KEY_BYTES = 65_536
"""Longest key, in bytes of UTF-8."""

_linking = threading.Lock()  # one for all pools: the check for a cycle and the link are one step


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of pool promises: a store's contract as data."""

    durable: bool
    """An acknowledged write is on disk and survives kill -9 and power loss."""
    blocking: bool
    """An operation may wait for a disk or a network: keep it off event loops."""
    shared: bool
    """Several processes may open the same store at once."""


def check_key(key: str) -> bytes:
    """The key in UTF-8. Any text is a key; raises BadValue otherwise, LimitExceeded beyond MAX_KEY_BYTES."""
    if not isinstance(key, str):
        raise BadValue(f"a key must be a str, not {type(key).__name__}")
    try:
        encoded = key.encode()
    except UnicodeEncodeError as error:
        raise BadValue(f"the key {key[:80]!a} is not valid Unicode: {error.reason}") from None
    if len(encoded) > MAX_KEY_BYTES:
        raise LimitExceeded(
            f"a key of {len(encoded)} bytes is longer than max_key_bytes={MAX_KEY_BYTES}",
            limit="max_key_bytes", allowed=MAX_KEY_BYTES, got=len(encoded),
        )  # fmt: skip
    return encoded


class Pool(ABC):
    """A store of entries by key.

    `pool[key] = value` stores a value or an Entry, `pool[key]` gives the payload back. Below that, `get` and
    `put` move encoded records untouched. Safe under threads. Use it as a context manager or call `close()`.
    """

    capabilities: ClassVar[Capabilities]
    kind: ClassVar[str]
    """Short name of the store, such as "memory"; configuration and status pages use it."""

    def __init__(self) -> None:
        self.global_id = str(uuid.uuid4())
        self.fill_failures = 0
        self.last_fill_failure: LailaError | None = None
        self._upstream: Pool | None = None
        self._closed = False

    # -- read-through ------------------------------------------------------------------------------------

    def get(self, key: str) -> Encoded | None:
        """The record of `key`, from here or from upstream (then also kept here); None if nobody has it.

        Raises Corrupt for a damaged record, StorageError if the store cannot be read, PoolClosed.
        """
        record = self._get(key)
        if record is None and self._upstream is not None:
            record = self._upstream.get(key)
            if record is not None:
                self._fill([(key, record)])
        return record

    def get_many(self, keys: Sequence[str]) -> list[Encoded | None]:
        """Records in the order of `keys`, None where nobody has one. One batch per pool of the chain."""
        records = self._get_many(keys)
        if self._upstream is None or None not in records:
            return records
        missing = list(
            dict.fromkeys(key for key, record in zip(keys, records, strict=True) if record is None)
        )
        found = {
            key: record
            for key, record in zip(missing, self._upstream.get_many(missing), strict=True)
            if record is not None
        }
        if found:
            self._fill(list(found.items()))
        return [
            found.get(key) if record is None else record for key, record in zip(keys, records, strict=True)
        ]

    def exists(self, key: str) -> bool:
        """Whether `get` would find a record, here or upstream. Fills nothing."""
        return self._exists(key) or (self._upstream is not None and self._upstream.exists(key))

    def exists_many(self, keys: Sequence[str]) -> list[bool]:
        """`exists` of each key, one batch per pool of the chain."""
        here = self._exists_many(keys)
        if self._upstream is None or all(here):
            return here
        missing = [key for key, there in zip(keys, here, strict=True) if not there]
        upstream = iter(self._upstream.exists_many(missing))
        return [there or next(upstream) for there in here]

    @property
    def upstream(self) -> Pool | None:
        """The pool that is asked for what is not here. Assign a pool, or None to cut the chain.

        Raises BadValue if the chain would come back to this pool.
        """
        return self._upstream

    @upstream.setter
    def upstream(self, pool: Pool | None) -> None:
        if pool is not None and not isinstance(pool, Pool):
            raise BadValue(f"upstream must be a pool, not {type(pool).__name__}")
        with _linking:
            link = pool
            while link is not None:
                if link is self:
                    raise BadValue(f"{pool!r} already reads through to {self!r}; the chain would be a circle")
                link = link._upstream
            self._upstream = pool

    def __lshift__(self, other: Pool) -> Pool:
        """`a << b`: a reads through to b. Gives b, so `a << b << c` is the chain a, b, c.

        Each pool stays its owner's to close: closing `a` does not close `b`.
        """
        if not isinstance(other, Pool):
            return NotImplemented
        self.upstream = other
        return other

    def _fill(self, items: Sequence[tuple[str, Encoded]]) -> None:
        try:
            self._put_new(items)
        except LailaError as error:
            self.fill_failures += 1
            self.last_fill_failure = error.with_traceback(None)

    # -- user level --------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        """The payload. Raises EntryNotFound (a KeyError)."""
        record = self.get(key)
        if record is None:
            raise EntryNotFound(f"no entry {key!r} in {self!r}", missing=(key,), pool=self.global_id)
        return Entry.from_record(key, record).data

    def __setitem__(self, key: str, value: Any) -> None:
        """Store an Entry, or any value as a constant."""
        entry = value if isinstance(value, Entry) else constant(value)
        self.put(key, entry.record)

    def __delitem__(self, key: str) -> None:
        """Remove the entry here. Raises EntryNotFound (a KeyError) if it is not here."""
        if not self.delete(key):
            raise EntryNotFound(f"no entry {key!r} in {self!r}", missing=(key,), pool=self.global_id)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.exists(key)

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # an empty pool is still a pool: `if pool:` asks whether there is one

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<{type(self).__name__}{self._where()} {self.global_id[:8]}{state}>"

    @property
    def place(self) -> str:
        """Its kind and where its records are, the same in every process; its id where they are in memory."""
        return f"{self.kind}:{self._where().strip() or self.global_id}"

    def _where(self) -> str:
        return ""

    # -- closing -----------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Release files and connections; every later call raises PoolClosed. May be called again."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise PoolClosed(f"{self!r} was closed", reason="closed")

    # -- local operations: what a store implements -------------------------------------------------------

    @abstractmethod
    def put(self, key: str, record: Encoded) -> None:
        """Store or replace one record; when it returns, a durable pool has it on disk.

        Raises BadValue, LimitExceeded, StorageError (the old record is intact), PoolClosed.
        """

    @abstractmethod
    def put_many(self, items: Sequence[tuple[str, Encoded]]) -> None:
        """Store several records, all or nothing unless the store says otherwise; the last of equal keys."""

    @abstractmethod
    def swap(self, key: str, before: Encoded | None, after: Encoded) -> bool:
        """Store `after` if what is here now (not upstream) equals `before`, None: nothing; whether it was so.

        The look and the change are one step for all who share the store, other processes included, and also
        against their puts and deletes. A record equals another with the same head and buffers, byte for byte.
        Raises what `put` raises, and Corrupt. A store behind a network that does not answer raises a
        StorageError which says that the change may have been made.
        """

    @abstractmethod
    def delete(self, key: str) -> bool:
        """Remove the record here; whether there was one."""

    @abstractmethod
    def delete_many(self, keys: Sequence[str]) -> int:
        """Remove several records here; how many there were."""

    @abstractmethod
    def keys(self) -> Iterator[str]:
        """The keys that are here (not upstream), in no order. Changes made meanwhile may or may not show."""

    @abstractmethod
    def count(self) -> int:
        """How many records are here."""

    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the records here take: heads and buffers, and what the store keeps beside them."""

    @abstractmethod
    def probe(self, *, write: bool = False) -> None:
        """Return if the store can be read (and written, if asked); else raise what is wrong with it."""

    @abstractmethod
    def empty(self) -> None:
        """Remove every record here."""

    @abstractmethod
    def _get(self, key: str) -> Encoded | None: ...

    @abstractmethod
    def _put_new(self, items: Sequence[tuple[str, Encoded]]) -> None:
        """Store those whose key is not here yet; leave the others as they are."""

    @abstractmethod
    def _exists(self, key: str) -> bool: ...

    def _get_many(self, keys: Sequence[str]) -> list[Encoded | None]:
        return [self._get(key) for key in keys]

    def _exists_many(self, keys: Sequence[str]) -> list[bool]:
        return [self._exists(key) for key in keys]

    @abstractmethod
    def _close(self) -> None: ...


def same(one: Encoded | None, other: Encoded | None) -> bool:
    """Whether two records, or absences, are equal byte for byte."""
    if one is None or other is None:
        return one is other
    return (
        one.head == other.head
        and len(one.buffers) == len(other.buffers)
        and all(
            memoryview(a).cast("B") == memoryview(b).cast("B")
            for a, b in zip(one.buffers, other.buffers, strict=True)
        )
    )


def close_all(pools: Iterable[Pool]) -> None:
    """Close every pool, also when closing one fails; an error is raised at the end."""
    with contextlib.ExitStack() as stack:
        for pool in pools:
            stack.callback(pool.close)
