"""Advisory locks in a real PostgreSQL: the suites, and what connections, tables and users do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from lock_conformance import SOON
from served import ServedLock
from servers import PASSWORD, PostgresServer, running, started

from laila.errors import BadConfig, LockUnavailable
from laila.locks import connect, postgres_lock
from laila.locks.postgres_lock import PostgresService
from laila.locks.postgres_session import Address


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    yield from running(PostgresServer)


class TestPostgresLock(ServedLock):
    server_class = PostgresServer
    client = "psycopg"
    extra = "postgres"

    @pytest.fixture
    def raw(self, server: PostgresServer) -> Iterator[psycopg.Connection]:
        """The server as its administrator sees it."""
        with closing(psycopg.connect(server.url, autocommit=True)) as connection:
            yield connection

    def protected(self) -> tuple[Any, str, str]:
        server = started(PostgresServer)
        return server, server.url, server.url.replace(PASSWORD, PASSWORD[::-1])

    @staticmethod
    def backends(raw: psycopg.Connection) -> int:
        found = raw.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'laila'"
        ).fetchone()
        assert found is not None
        return int(found[0])

    def test_a_paused_holder_keeps_it(self, service, other):
        """A connection lives on while its process is stopped: nobody overtakes it, and it has lost nothing."""
        token = other("acquire", "a", SOON)
        other.stop()
        assert service.lock("a").try_acquire() is None
        other.go_on()
        assert other("loss", "a") == ""
        assert service.lock("a").holder().token == token

    def test_a_connection_that_ends_loses_the_hold(self, service, another, raw):
        """Another one gets it with a greater token; release is quiet."""
        hold = service.lock("a").acquire(0)
        raw.execute("SELECT pg_terminate_backend(%s)", [hold._session.backend])
        with another.lock("a").acquire(SOON) as later:
            assert later.token > hold.token
            assert hold.lost
            assert "connection ended" in hold.loss
            hold.release()
            assert not later.lost

    def test_a_lock_that_was_taken_away_and_given_to_another_is_lost(self, service, another, raw):
        """Where somebody else has a later token, the hold is lost, whatever its own connection believes."""
        hold = service.lock("a").acquire(0)
        hold._session.ask("SELECT pg_advisory_unlock_all()")
        with another.lock("a").acquire(SOON):
            assert "somebody else" in hold.loss

    def test_idle_connections_that_ended_are_replaced(self, service, raw):
        """The server may end what is idle: the next acquisition, or question, opens a new one."""
        lock = service.lock("a")
        for ask in (lambda: lock.acquire(0).release(), lock.holder):
            lock.acquire(0).release()
            assert self.backends(raw) == 1
            raw.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'laila'"
            )
            ask()

    def test_few_connections_stay_open_and_none_after_closing(self, service, raw):
        """As many as there are holds; a handful stays for the next ones."""
        holds = [service.lock(f"a{each}").acquire(0) for each in range(8)]
        assert self.backends(raw) == 8
        for hold in holds:
            hold.release()
        _until(lambda: self.backends(raw) == 4)
        service.close()
        _until(lambda: self.backends(raw) == 0)

    def test_a_wait_that_was_given_up_ends_at_the_server(self, server, raw):
        """Closing a service takes its statement out of the server's queue, which does not look itself here."""
        url = server.at(ttl=600, prefix="queue/")
        with connect(url) as service, service.lock("a").acquire(0), ThreadPoolExecutor(1) as pool:
            theirs = connect(url)
            waiting = pool.submit(theirs.lock("a").acquire)
            queued = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            _until(lambda: raw.execute(queued).fetchone() == (1,))
            theirs.close()
            _until(lambda: raw.execute(queued).fetchone() == (0,))
            assert isinstance(waiting.exception(SOON), LockUnavailable)

    def test_names_with_the_same_hash_exclude_each_other_and_nothing_worse(self, server, monkeypatch):
        """A collision of 64 bits: over-exclusion, with tokens and holders of each name for itself."""
        monkeypatch.setattr(postgres_lock, "number", lambda text: 7)
        with connect(server.at(prefix="same/")) as service, connect(server.at(prefix="same/")) as another:
            with service.lock("a").acquire(0) as hold:
                assert another.lock("b").try_acquire() is None
                assert another.lock("b").holder() is None
                assert another.lock("a").holder().token == hold.token
            with another.lock("b").acquire(0) as later:
                assert service.lock("a").holder() is None
                assert not later.lost

    def test_a_user_who_may_not_make_the_table_is_told(self, own):
        """LockUnavailable with the server's reason, and the lock is free for who may."""
        with closing(psycopg.connect(own.url, autocommit=True)) as raw:
            raw.execute(f"CREATE USER weak PASSWORD '{PASSWORD}'")
        with connect(own.url.replace("laila:", "weak:")) as weak, connect(own.url) as service:
            with pytest.raises(LockUnavailable, match="permission denied"):
                weak.lock("a").acquire(0)
            service.lock("a").acquire(SOON).release()

    def test_a_server_that_only_reads_is_refused(self, own):
        """Nobody can be given a token there."""
        with closing(psycopg.connect(own.url, autocommit=True)) as raw:
            raw.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            raw.execute("SELECT pg_reload_conf()")
        with connect(own.url) as service, pytest.raises(LockUnavailable, match="read-only"):
            service.lock("a").acquire(0)

    def test_a_token_rises_when_the_table_was_dropped(self, service, raw):
        """It is at least the server's microseconds since the epoch; and a hold is not lost for that."""
        with service.lock("a").acquire(0) as hold:
            raw.execute("DROP TABLE laila_locks")
            assert not hold.lost
        with service.lock("a").acquire(0) as later:
            assert later.token > hold.token

    def test_addresses(self):
        """Several hosts, ports and whatever libpq takes; what is given beats what we would set."""
        found = Address.of("postgresql://me:p%40ss@one:1,two:2/db?application_name=x", 10, 5)
        assert found.server().secret == "p@ss"  # noqa: S105  # of nobody
        assert found.parameters["application_name"] == "x"
        assert found.parameters["tcp_user_timeout"] == 10000
        assert "p@ss" not in f"{found!r} {found.server()!r}"
        assert str(found.server()) == "the PostgreSQL server at one:1,two:2"

    @pytest.mark.parametrize(
        "url", ["postgresql://h/?unheard=of", "postgresql://%zz@h", "postgresql://[::1/x"]
    )
    def test_addresses_that_cannot_be_used(self, url):
        """BadConfig at once."""
        with pytest.raises(BadConfig):
            PostgresService(url)


def _until(true: Any) -> None:
    until = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)
