"""Entries in a Redis server (or Valkey), by redis-py.

Strategy: a pool is one hash, `laila/pool/<name>`: a field per key, and as its value the bytes of an entry's file
(recordfile.py), with their checksum. One command reads or writes a batch as a whole; `swap` is a script.

Rules
- What may be done twice is sent again once, after a connection that had ended; a swap never is.
- A value in Redis ends at 512 MiB: a larger entry is refused with LimitExceeded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from laila.codec import Encoded
from laila.errors import BadConfig, LimitExceeded, StorageError
from laila.pools.base import Capabilities, Pool, check_key
from laila.pools.recordfile import pack, unpack
from laila.pools.server import Server, client, settings, split, system_reason

if TYPE_CHECKING:
    import redis

MAX_VALUE = 512 << 20
"""Bytes of one value, unless the server was told otherwise."""
_GROUP = 1000  # fields per command, and
_GROUP_BYTES = 64 << 20  # about so many bytes
_SWAP = """
local found = redis.call('HGET', KEYS[1], ARGV[1])
if (found or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
_REASONS = {
    "OOM": "ENOSPC", "READONLY": "EROFS", "MISCONF": "EIO", "LOADING": "EBUSY", "BUSY": "EBUSY", "NOPERM": "EACCES",
    "NOAUTH": "EACCES", "WRONGPASS": "EACCES", "MASTERDOWN": "EROFS", "NOREPLICAS": "EROFS", "WRONGTYPE": "EEXIST",
}  # fmt: skip


class RedisPool(Pool):
    """Entries at `redis://[user:password@]host[:port][/db]`, `rediss://` (TLS) or `unix:///path`; Redis 6 or later.

    Options, also in the address as `?pool=kept`: `pool`, its name in the server, and `timeout` of one request. The
    address may carry what redis-py takes, such as `ssl_ca_certs`. Connects when first used, and again after a loss.

    Not durable: an acknowledged write is as safe as that server keeps its data, which is in memory unless it was told
    `appendonly yes` and `appendfsync always`. Any number of processes and machines may use the pool at once.
    `put_many` is all or nothing for up to 64 MiB; larger batches go in parts of that size.

    Raises BadConfig for an address that cannot be used, and when redis-py is not installed.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(durable=False, blocking=True, shared=True)
    kind: ClassVar[str] = "redis"

    def __init__(self, url: str, *, pool: str | None = None, timeout: float | None = None) -> None:
        super().__init__()
        client("redis", "redis", "redis")
        said, url = split(url, ("pool", "timeout"))
        self.settings = settings(said, pool, timeout)
        self._hash = f"laila/pool/{self.settings.pool}"
        self._again = _connect(url, self.settings.timeout, 1)
        self._once = _connect(url, self.settings.timeout, 0)
        self._exchange = self._once.register_script(_SWAP)
        self.server = _server(self._again)

    def put(self, key: str, record: Encoded) -> None:
        self.put_many([(key, record)])

    def put_many(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._check_open()
        batch = {check_key(key): record for key, record in items}
        values = {key: _packed(key, record) for key, record in batch.items()}
        with self._asking("write"):
            for part in _parts(values):
                self._again.hset(self._hash, items=[each for pair in part.items() for each in pair])

    def _put_new(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._check_open()
        batch = {check_key(key): record for key, record in items}
        with self._asking("write"):
            for key, record in batch.items():
                self._again.hsetnx(self._hash, key, _packed(key, record))

    def swap(self, key: str, before: Encoded | None, after: Encoded) -> bool:
        self._check_open()
        raw = check_key(key)
        expected = b"" if before is None else _packed(raw, before)
        with self._asking("swap", "; it may have been done all the same: look before trying again"):
            return bool(self._exchange(keys=[self._hash], args=[raw, expected, _packed(raw, after)]))

    def delete(self, key: str) -> bool:
        return self.delete_many((key,)) == 1

    def delete_many(self, keys: Sequence[str]) -> int:
        self._check_open()
        batch = list(dict.fromkeys(check_key(key) for key in keys))
        with self._asking("delete"):
            return sum(
                int(self._once.hdel(self._hash, *batch[start : start + _GROUP]))
                for start in range(0, len(batch), _GROUP)
            )

    def empty(self) -> None:
        self._check_open()
        with self._asking("delete"):
            self._again.unlink(self._hash)

    def keys(self) -> Iterator[str]:
        self._check_open()
        with self._asking("list"):
            return iter([key.decode() for key in self._fields()])

    def count(self) -> int:
        self._check_open()
        with self._asking("count"):
            return int(self._again.hlen(self._hash))

    def nbytes(self) -> int:
        self._check_open()
        total = 0
        with self._asking("count"):
            found = self._fields()
            for start in range(0, len(found), _GROUP):
                with self._again.pipeline(transaction=False) as pipeline:
                    for key in found[start : start + _GROUP]:
                        pipeline.hstrlen(self._hash, key)
                    total += sum(pipeline.execute())
        return total

    def probe(self, *, write: bool = False) -> None:
        self._check_open()
        with self._asking("read"):
            self._again.hlen(self._hash)
        if write:
            with self._asking("write"):
                probe = f"{self._hash}/probe"
                self._again.set(probe, b"", ex=1)
                self._again.unlink(probe)

    # -- reading -----------------------------------------------------------------------------------------

    def _get(self, key: str) -> Encoded | None:
        return self._get_many((key,))[0]

    def _get_many(self, keys: Sequence[str]) -> list[Encoded | None]:
        self._check_open()
        batch = [check_key(key) for key in keys]
        found: list[bytes | None] = []
        with self._asking("read"):
            for start in range(0, len(batch), _GROUP):
                found += cast(
                    "list[bytes | None]", self._again.hmget(self._hash, batch[start : start + _GROUP])
                )
        return [
            None if value is None else unpack(value, key, self._place(key))
            for key, value in zip(batch, found, strict=True)
        ]

    def _exists(self, key: str) -> bool:
        return self._exists_many((key,))[0]

    def _exists_many(self, keys: Sequence[str]) -> list[bool]:
        self._check_open()
        batch = [check_key(key) for key in keys]
        if not batch:
            return []
        with self._asking("read"), self._again.pipeline(transaction=False) as pipeline:
            for key in batch:
                pipeline.hexists(self._hash, key)
            return list(map(bool, pipeline.execute()))

    def _fields(self) -> list[bytes]:
        return cast("list[bytes]", self._again.hkeys(self._hash))

    # -- the server --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _asking(self, doing: str, unless: str = "") -> Iterator[None]:
        import redis

        try:
            yield
        except redis.RedisError as error:
            failure = self._failure(doing, error, unless)
        except UnicodeDecodeError as error:
            failure = self.server.failed(
                doing, error, "EILSEQ", "a key there is not text: was it put by another?"
            )
        else:
            return
        finally:
            if self._closed:  # while this was under way
                self._close()
        raise failure

    def _failure(self, doing: str, error: redis.RedisError, unless: str) -> StorageError:
        import redis

        doing = f"{doing} pool {self.settings.pool!r}"
        if isinstance(error, redis.AuthenticationError):
            return self.server.failed(doing, error, "EACCES")
        if isinstance(error, redis.TimeoutError):
            return self.server.failed(doing, error, "ETIMEDOUT", f"see that it runs{unless}")
        if isinstance(error, redis.ResponseError | redis.BusyLoadingError | redis.ReadOnlyError):
            word = str(error).partition(" ")[0]
            reason = _REASONS.get(word) or next(
                (reason for kind, reason in _CLASSES.items() if kind in type(error).__name__), word or "EIO"
            )
            return self.server.failed(doing, error, reason, "see what its log says")
        return self.server.failed(
            doing, error, system_reason(error), f"see that it runs and lets this user in{unless}"
        )

    def _place(self, key: bytes) -> str:
        return f"entry {key[:80].decode(errors='replace')!r} of pool {self.settings.pool!r} in {self.server}"

    def _close(self) -> None:
        for connected in (self._again, self._once):
            connected.connection_pool.disconnect(inuse_connections=False)

    def _where(self) -> str:
        return f" {self.server.where} {self.settings.pool}"


_CLASSES = {"OutOfMemory": "ENOSPC", "ReadOnly": "EROFS", "BusyLoading": "EBUSY", "NoPermission": "EACCES"}
"""Errors for which redis-py has classes; it drops the server's word from their text."""


def _connect(url: str, timeout: float, again: int) -> redis.Redis:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        found: redis.Redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
            decode_responses=False,
            protocol=2,
            # For a connection that ended while it was idle. What timed out is not repeated.
            retry=Retry(NoBackoff(), again, supported_errors=(redis.ConnectionError,)),
        )
        pool = found.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # opens nothing; raises for what it does not take
    except (ValueError, TypeError, AttributeError):
        raise BadConfig(
            "the Redis address of a pool cannot be used; write it as redis://user:password@host:6379/0"
        ) from None
    return found


def _server(connected: redis.Redis) -> Server:
    kept = connected.connection_pool.connection_kwargs
    where = kept.get("path") or f"{kept.get('host', 'localhost')}:{kept.get('port', 6379)}"
    return Server("Redis", where, kept.get("password") or "")


def _packed(key: bytes, record: Encoded) -> bytes:
    value = b"".join(pack(key, record))
    if len(value) > MAX_VALUE:
        raise LimitExceeded(
            f"an entry of {len(value)} bytes is longer than a value in Redis may be, {MAX_VALUE}; keep it elsewhere",
            limit="redis_value", allowed=MAX_VALUE, got=len(value),
        )  # fmt: skip
    return value


def _parts(values: dict[bytes, bytes]) -> Iterator[dict[bytes, bytes]]:
    part: dict[bytes, bytes] = {}
    size = 0
    for key, value in values.items():
        if part and size + len(value) > _GROUP_BYTES:
            yield part
            part, size = {}, 0
        part[key] = value
        size += len(value)
    if part:
        yield part
