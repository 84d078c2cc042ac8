"""The redis pool keeps the suites, on a real redis-server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from pool_conformance import content, record
from served_conformance import ServedPoolConformance

from laila import errors
from laila.pools import Capabilities, RedisPool
from laila.pools import redis as redis_module
from tests.locks.servers import PASSWORD, RedisServer, running, started


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    yield from running(RedisServer)


class TestRedisPool(ServedPoolConformance):
    kind = "redis"
    atomic_batches = True
    server_class = RedisServer
    client = "redis"
    extra = "redis"
    keeps = False
    secret = PASSWORD

    def protected(self) -> tuple[Any, str, str]:
        server = started(RedisServer, PASSWORD)
        return server, server.url, server.url.replace(PASSWORD, PASSWORD[::-1])

    def damage(self, pool: Any) -> None:
        with redis.Redis(port=self.server.port) as raw:
            value = bytearray(raw.hget(pool._hash, b"k"))
            value[-5] ^= 1
            raw.hset(pool._hash, b"k", bytes(value))


def test_it_promises_no_more_than_the_server() -> None:
    assert RedisPool.capabilities == Capabilities(durable=False, blocking=True, shared=True)


def test_a_full_server_is_enospc_and_the_old_value_stays(server: RedisServer) -> None:
    with RedisPool(server.at(pool="full")) as pool, redis.Redis(port=server.port) as raw:
        pool.put("k", record(b"old"))
        raw.config_set("maxmemory", 1)
        try:
            for use in (
                lambda: pool.put("k", record(b"new")),
                lambda: pool.swap("k", record(b"old"), record(b"new")),
            ):
                with pytest.raises(errors.StorageError) as caught:
                    use()
                assert caught.value.reason == "ENOSPC", caught.value
            assert content(pool.get("k")) == content(record(b"old"))
        finally:
            raw.config_set("maxmemory", 0)


def test_a_replica_is_erofs(server: RedisServer) -> None:
    second = started(RedisServer)
    try:
        with RedisPool(second.url) as pool, redis.Redis(port=second.port) as raw:
            raw.execute_command("REPLICAOF", "127.0.0.1", str(server.port))
            for use in (lambda: pool.put("k", record()), lambda: pool.swap("k", None, record())):
                with pytest.raises(errors.StorageError) as caught:
                    use()
                assert caught.value.reason == "EROFS", caught.value
    finally:
        second.close()


def test_a_script_that_the_server_forgot_is_sent_again(server: RedisServer) -> None:
    with RedisPool(server.at(pool="scripts")) as pool, redis.Redis(port=server.port) as raw:
        assert pool.swap("k", None, record(b"one"))
        raw.script_flush()
        assert pool.swap("k", record(b"one"), record(b"two"))


def test_what_is_longer_than_a_value_may_be_is_refused(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "MAX_VALUE", 1000)
    with RedisPool(server.at(pool="long")) as pool:
        with pytest.raises(errors.LimitExceeded, match="longer than a value in Redis"):
            pool.put_many([("small", record()), ("k", record(bytes(1000)))])
        assert pool.count() == 0


def test_large_batches_go_in_parts(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_module, "_GROUP_BYTES", 5000)
    with RedisPool(server.at(pool="parts")) as pool:
        pool.put_many([(f"k{i}", record(bytes(1000))) for i in range(50)])
        assert pool.count() == 50
        pool.empty()


def test_encrypted_links(server: RedisServer) -> None:
    tls = started(RedisServer, PASSWORD, tls=True)
    try:
        with RedisPool(tls.url) as pool:
            pool.put("k", record(b"x"))
            assert content(pool.get("k")) == content(record(b"x"))
            assert pool.swap("k", record(b"x"), record(b"y"))
    finally:
        tls.close()
