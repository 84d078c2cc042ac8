"""Locks in a real redis-server: the suites, and what only a server that forgets can do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import redis
from served import TTL, LeasedLock
from servers import PASSWORD, RedisServer, running, started

from laila.errors import BadConfig, LockUnavailable
from laila.locks import connect
from laila.locks.redis_lock import RedisService


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    yield from running(RedisServer)


class TestRedisLock(LeasedLock):
    server_class = RedisServer
    client = "redis"
    extra = "redis"

    @pytest.fixture
    def raw(self, server: RedisServer) -> Iterator[redis.Redis]:
        """The server as its administrator sees it."""
        with closing(redis.Redis.from_url(server.url, decode_responses=True)) as client:
            yield client

    def protected(self) -> tuple[Any, str, str]:
        server = started(RedisServer, PASSWORD)
        return server, server.url, server.url.replace(PASSWORD, PASSWORD[::-1])

    @pytest.mark.parametrize("shared", [False, True])
    def test_a_server_that_forgot_gives_it_away_and_the_first_learns_it(self, own, shared):
        """After a restart without data: the next one has a greater token all the same, and the first one has lost."""
        with connect(own.at(ttl=60)) as service, connect(own.at(ttl=60)) as another:
            hold = service.lock("a").acquire(0, shared=shared)
            own.stop()
            own.start()
            with another.lock("a").acquire(0) as later:
                assert later.token > hold.token
                assert hold.lost
                assert "lost its data" in hold.loss
                hold.release()
                assert not later.lost

    def test_only_the_token_stays_behind(self, service, another, raw):
        """Holds, waits and readers leave nothing in the server but the counter, which never expires."""
        with service.lock("a").acquire(0), ThreadPoolExecutor(2) as pool:
            waits = [pool.submit(another.lock("a").acquire, 0.2, shared=each) for each in (True, False)]
            for each in waits:
                assert each.exception(20) is not None
        with service.lock("a").shared():
            pass
        mine = [key for key in raw.scan_iter(f"{service.settings.prefix}*")]
        assert mine == [f"{service.settings.prefix}{{a}}:t"]
        assert raw.ttl(mine[0]) == -1

    def test_who_waits_asks_seldom(self, service, another, raw):
        """A waiter blocks at the server: a few commands in a second, and not hundreds."""
        with service.lock("a").acquire(0), ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(another.lock("a").acquire, 1.0)
            time.sleep(0.1)
            before = raw.info("stats")["total_commands_processed"]
            assert waiting.exception(20) is not None
            assert (
                raw.info("stats")["total_commands_processed"] - before < 60
            )  # those inside of scripts count too

    def test_many_readers_are_woken_by_each_other(self, server):
        """More than one release rings for; here no lease ends in time."""
        url = server.at(ttl=600, timeout=20, prefix="many/")
        with connect(url) as service, connect(url) as another, ThreadPoolExecutor(70) as pool:
            with service.lock("a").acquire(0):
                reading = [pool.submit(another.lock("a").acquire, 40, shared=True) for _ in range(70)]
                time.sleep(1)
            for hold in [each.result(20) for each in reading]:
                hold.release()

    def test_a_dead_reader_among_living_ones(self, service, another, other):
        """It is gone after its lease, though the others are renewed: when they let go, nobody is in the way."""
        other("acquire", "a", 10, True)
        living = service.lock("a").acquire(0, shared=True)
        other.kill()
        time.sleep(TTL * 1.5)
        living.release()
        another.lock("a").acquire(0).release()

    def test_what_the_server_does_not_understand_is_no_secret(self, own):
        """Redis repeats the arguments of a command that it does not know, such as AUTH where it was renamed."""
        own.stop()
        own.command = lambda: [
            *RedisServer.command(own),
            "--rename-command",
            "AUTH",
            "",
            "--rename-command",
            "HELLO",
            "",
        ]
        own.start()
        with connect(f"redis://me:{PASSWORD}@127.0.0.1:{own.port}/0") as service:
            with pytest.raises(LockUnavailable) as caught:
                service.lock("a").acquire(0)
        assert PASSWORD not in str(caught.value)
        assert "AUTH" in str(caught.value)
        assert caught.value.__cause__ is None

    def test_over_tls(self):
        """`rediss://` with the certificate to trust in the address; without it nothing is sent."""
        for server in running(RedisServer, PASSWORD, tls=True):
            with connect(server.url) as service, service.lock("a").acquire(0) as hold:
                assert not hold.lost
            with (
                connect(server.url.partition("?")[0]) as service,
                pytest.raises(LockUnavailable, match="verify"),
            ):
                service.lock("a").acquire(0)

    def test_over_a_local_socket(self, server):
        """`unix://` is another way to the same locks; messages name the path."""
        path = server.folder / "socket"
        with connect(server.url) as service, connect(f"unix://{path}?ttl=5") as local:
            assert local.server.where == str(path)
            with service.lock("local").acquire(0):
                assert local.lock("local").try_acquire() is None
            local.lock("local").acquire(0).release()

    @pytest.mark.parametrize(
        "url", ["redis://host:no/0", "redis://host/?unheard=of", "http://host", "redis://h?db=x"]
    )
    def test_addresses_that_cannot_be_used(self, url):
        """BadConfig at once."""
        with pytest.raises(BadConfig):
            RedisService(url)

    def test_records_are_readable(self, service, raw):
        """What an administrator finds in the server: who holds it."""
        with service.lock("a").acquire(0, purpose="reading"):
            found = raw.hgetall(f"{service.settings.prefix}{{a}}:x")
        assert json.loads(found["record"])[-1] == "reading"
