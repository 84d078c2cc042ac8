"""The postgres pool keeps the suites, on a real PostgreSQL, and its own rules about tables and rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from pool_conformance import content, record
from served_conformance import ServedPoolConformance

from laila import errors
from laila.pools import PostgresPool
from laila.pools import postgres as postgres_module
from tests.locks.servers import PASSWORD, PostgresServer, running, started


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    yield from running(PostgresServer)


@pytest.fixture
def raw(server: PostgresServer) -> Iterator[psycopg.Connection]:
    """The server as its administrator sees it."""
    with closing(psycopg.connect(server.url, autocommit=True)) as connection:
        yield connection


class TestPostgresPool(ServedPoolConformance):
    kind = "postgres"
    atomic_batches = True
    server_class = PostgresServer
    client = "psycopg"
    extra = "postgres"
    keeps = True
    secret = PASSWORD

    def protected(self) -> tuple[Any, str, str]:
        server = started(PostgresServer)
        return server, server.url, server.url.replace(PASSWORD, PASSWORD[::-1])

    def damage(self, pool: Any) -> None:
        with closing(psycopg.connect(self.server.url, autocommit=True)) as connection:
            connection.execute(
                "UPDATE laila_records SET content = set_byte(content, 500, 7) WHERE pool = %s",
                [pool.settings.pool],
            )


def test_a_batch_is_all_or_nothing(server: PostgresServer) -> None:
    with PostgresPool(server.at(pool="batch")) as pool:
        pool.put("a", record(b"old"))
        with pytest.raises(TypeError):
            pool.put_many([("a", record(b"new")), ("b", record(b"new")), ("c", record("no bytes"))])
        assert list(pool) == ["a"]
        assert content(pool.get("a")) == content(record(b"old"))


def test_every_commit_waits_for_the_disk(server: PostgresServer, raw: psycopg.Connection) -> None:
    """Also where the database says otherwise."""
    raw.execute("ALTER DATABASE postgres SET synchronous_commit = off")
    try:
        with PostgresPool(server.at(pool="sync")) as pool:
            pool.probe()
            assert pool._look("read", "SHOW synchronous_commit") == [(b"on",)]
    finally:
        raw.execute("ALTER DATABASE postgres RESET synchronous_commit")


def test_tables_are_made_once_by_whoever_comes_first(raw: psycopg.Connection, server: PostgresServer) -> None:
    raw.execute("DROP TABLE IF EXISTS laila_chunks, laila_records")
    begun = threading.Barrier(6)

    def open_one(number: int) -> None:
        with PostgresPool(server.at(pool=f"first{number}")) as pool:
            begun.wait(30)
            pool.put("k", record(b"%d" % number))
            assert content(pool.get("k")) == content(record(b"%d" % number))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(open_one, range(6)))


def test_chunks_go_with_their_rows(server: PostgresServer, raw: psycopg.Connection, monkeypatch: Any) -> None:
    """Whatever replaces or removes an entry leaves no chunk behind, and takes none from another."""
    monkeypatch.setattr(postgres_module, "CHUNK", 1000)

    def chunks() -> int:
        found = raw.execute("SELECT count(*) FROM laila_chunks WHERE pool = 'chunks'").fetchone()
        return int(found[0])

    with PostgresPool(server.at(pool="chunks")) as pool:
        pool.put_many([("a", record(bytes(5500))), ("b", record(bytes(5500)))])
        assert chunks() == 10
        assert pool.swap("a", record(bytes(5500)), record(bytes(2500)))
        assert chunks() == 7
        pool.put("a", record(b"small"))
        assert chunks() == 5
        assert pool.delete("a")
        assert content(pool.get("b")) == content(record(bytes(5500)))
        pool.empty()
        assert chunks() == 0


def test_readers_of_large_entries_see_them_whole(server: PostgresServer, monkeypatch: Any) -> None:
    """While they are replaced, swapped and removed by others."""
    monkeypatch.setattr(postgres_module, "CHUNK", 1000)
    stop = threading.Event()
    with PostgresPool(server.at(pool="whole")) as pool, ThreadPoolExecutor(4) as threads:

        def write(number: int) -> None:
            step = 0
            while not stop.is_set():
                step += 1
                value = record(bytes([step % 250]) * (1500 + 1000 * (step % 7)))
                if step % 5 == 0:
                    pool.delete("k")
                elif step % 2:
                    pool.put("k", value)
                else:
                    pool.swap("k", pool.get("k"), value)

        writing = [threads.submit(write, number) for number in range(3)]
        try:
            found = 0
            for _ in range(200):
                if (seen := pool.get("k")) is not None:
                    found += 1
                    assert len(set(bytes(seen.buffers[0]))) == 1
        finally:
            stop.set()
        for each in writing:
            each.result(60)
        assert found


def test_a_missing_chunk_is_corrupt(
    server: PostgresServer, raw: psycopg.Connection, monkeypatch: Any
) -> None:
    monkeypatch.setattr(postgres_module, "CHUNK", 1000)
    with PostgresPool(server.at(pool="missing")) as pool:
        pool.put("k", record(bytes(5500)))
        raw.execute("DELETE FROM laila_chunks WHERE pool = 'missing' AND number = 3")
        with pytest.raises(errors.Corrupt, match="chunks are missing"):
            pool.get("k")


def test_a_user_without_rights_is_eacces(server: PostgresServer, raw: psycopg.Connection) -> None:
    with PostgresPool(server.at(pool="rights")) as pool:
        pool.put("k", record(b"x"))
    raw.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
    raw.execute("GRANT SELECT ON laila_records, laila_chunks TO reader")
    address = server.at(pool="rights").replace("//laila:", "//reader:")
    with PostgresPool(address) as pool:
        assert content(pool.get("k")) == content(record(b"x"))
        for use in (
            lambda: pool.put("k", record()),
            lambda: pool.delete("k"),
            lambda: pool.probe(write=True),
        ):
            with pytest.raises(errors.StorageError) as caught:
                use()
            assert caught.value.reason == "EACCES", caught.value


def test_a_connection_that_was_ended_in_the_middle_is_made_up_for(
    server: PostgresServer, raw: psycopg.Connection
) -> None:
    """What may be done twice is; the caller sees nothing."""
    with PostgresPool(server.at(pool="ended")) as pool:
        pool.put("k", record(b"x"))
        for _ in range(3):
            raw.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'laila'"
            )
            assert content(pool.get("k")) == content(record(b"x"))
