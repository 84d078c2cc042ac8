"""The package's public names, and that a process pays only for the stores it uses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from laila import pools


def test_the_public_names_are_these() -> None:
    assert pools.__all__ == [
        "Capabilities", "DefaultPool", "FilesystemPool", "MemoryPool", "Pool", "SqlitePool",
    ]  # fmt: skip
    assert {getattr(pools, name).__name__ for name in pools.__all__} == set(pools.__all__) - {"DefaultPool"}
    with pytest.raises(AttributeError):
        pools.RedisPool  # noqa: B018 - the access is what fails


def test_promises_are_data() -> None:
    on_disk = pools.Capabilities(durable=True, blocking=True, shared=True)
    assert pools.MemoryPool.capabilities == pools.Capabilities(durable=False, blocking=False, shared=False)
    assert pools.FilesystemPool.capabilities == pools.SqlitePool.capabilities == on_disk
    assert [pool.kind for pool in (pools.MemoryPool, pools.FilesystemPool, pools.SqlitePool)] == [
        "memory", "filesystem", "sqlite",
    ]  # fmt: skip


def test_stores_on_a_disk_are_imported_when_used() -> None:
    program = (
        "import laila.pools, sys; print(*(name in sys.modules for name in ('sqlite3', 'laila.pools.disk')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
