"""The package's public names, and that a process pays only for the stores it uses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from laila import pools
from laila.pools.server import Server


def test_the_public_names_are_these() -> None:
    assert pools.__all__ == [
        "Capabilities", "DefaultPool", "FilesystemPool", "MemoryPool", "Pool", "PostgresPool", "RedisPool", "S3Pool",
        "SqlitePool",
    ]  # fmt: skip
    assert {getattr(pools, name).__name__ for name in pools.__all__} == set(pools.__all__) - {"DefaultPool"}
    with pytest.raises(AttributeError):
        pools.TapePool  # noqa: B018 - the access is what fails


def test_promises_are_data() -> None:
    on_disk = pools.Capabilities(durable=True, blocking=True, shared=True)
    assert pools.MemoryPool.capabilities == pools.Capabilities(durable=False, blocking=False, shared=False)
    assert pools.FilesystemPool.capabilities == pools.SqlitePool.capabilities == on_disk
    assert [pool.kind for pool in (pools.MemoryPool, pools.FilesystemPool, pools.SqlitePool)] == [
        "memory", "filesystem", "sqlite",
    ]  # fmt: skip


def test_clients_of_servers_are_imported_when_a_pool_is_made() -> None:
    program = (
        "import laila.pools.redis, laila.pools.postgres, laila.pools.s3, sys; "
        "print(*(name in sys.modules for name in ('redis', 'psycopg', 'boto3', 'botocore')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 4


def test_stores_on_a_disk_are_imported_when_used() -> None:
    program = (
        "import laila.pools, sys; print(*(name in sys.modules for name in ('sqlite3', 'laila.pools.disk')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_password_that_a_server_repeats_is_hidden() -> None:
    """In the message, also as it stands in an address; a foreign error that shows it is no cause."""
    server = Server("Redis", "host:1", "pass word/1")
    for text in ("no user with pass word/1", "bad address ://:pass%20word%2F1@host"):
        failure = server.failed("read", RuntimeError(text), "EACCES")
        assert "***" in str(failure)
        assert "pass" not in str(failure)
        assert failure.__cause__ is None
    harmless = RuntimeError("it is asleep.")
    failure = server.failed("read", harmless, "EBUSY", "wake it")
    assert str(failure) == "cannot read in the Redis server at host:1: it is asleep (EBUSY); wake it"
    assert failure.__cause__ is harmless
    assert "pass" not in repr(server)
