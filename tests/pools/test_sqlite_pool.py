"""The sqlite pool keeps both conformance suites, and its own rules about connections and foreign files."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from durable_conformance import DurablePoolConformance
from pool_conformance import content, record

from laila import errors
from laila.pools import SqlitePool
from laila.pools import database as database_module


class TestSqlitePool(DurablePoolConformance):
    kind = "sqlite"
    atomic_batches = True


def test_a_batch_is_all_or_nothing(tmp_path: Path) -> None:
    with SqlitePool(tmp_path / "pool") as pool:
        pool.put("a", record(b"old"))
        with pytest.raises(TypeError):
            pool.put_many([("a", record(b"new")), ("b", record(b"new")), ("c", record("no bytes"))])
        assert list(pool) == ["a"]
        assert content(pool.get("a")) == content(record(b"old"))


def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    with SqlitePool(tmp_path / "pool") as pool:

        def settings(connection: sqlite3.Connection) -> list[object]:
            return [
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
            ]

        assert pool._database.read(settings) == ["wal", 3]


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(errors.BadValue, match="another program"):
        SqlitePool(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    SqlitePool(tmp_path / "pool").close()
    with closing(sqlite3.connect(tmp_path / "pool")) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(errors.BadValue, match="schema version 2"):
        SqlitePool(tmp_path / "pool")


def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "pool").write_text("something else " * 1000)
    with pytest.raises(errors.Corrupt, match="pool is damaged, or not a SQLite database"):
        SqlitePool(tmp_path / "pool")


def test_a_directory_in_its_place_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(errors.StorageError):
        SqlitePool(tmp_path)


def test_a_writer_that_does_not_let_go_is_ebusy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "WAIT_SECONDS", 0.1)
    with SqlitePool(tmp_path / "pool") as pool, closing(sqlite3.connect(tmp_path / "pool")) as other:
        pool.put("k", record(b"old"))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(errors.StorageError) as caught:
            pool.put("k", record(b"new"))
        assert caught.value.reason == "EBUSY"
        assert content(pool.get("k")) == content(record(b"old"))
        other.rollback()
        pool.put("k", record(b"new"))


def test_threads_leave_no_connections_behind(tmp_path: Path) -> None:
    with SqlitePool(tmp_path / "pool") as pool:
        for _ in range(20):
            thread = threading.Thread(target=pool.put, args=("k", record()))
            thread.start()
            thread.join()
        assert len(pool._database._idle) == 1
