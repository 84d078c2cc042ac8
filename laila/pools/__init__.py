"""Where entries live: one interface, several stores. Stores on a disk or in a server are imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laila.pools.base import Capabilities, Pool
from laila.pools.memory import DefaultPool, MemoryPool

if TYPE_CHECKING:
    from laila.pools.filesystem import FilesystemPool
    from laila.pools.postgres import PostgresPool
    from laila.pools.redis import RedisPool
    from laila.pools.s3 import S3Pool
    from laila.pools.sqlite import SqlitePool

__all__ = [
    "Capabilities",
    "DefaultPool",
    "FilesystemPool",
    "MemoryPool",
    "Pool",
    "PostgresPool",
    "RedisPool",
    "S3Pool",
    "SqlitePool",
]

_LATER = {
    "FilesystemPool": "filesystem",
    "PostgresPool": "postgres",
    "RedisPool": "redis",
    "S3Pool": "s3",
    "SqlitePool": "sqlite",
}


def __getattr__(name: str) -> type[Pool]:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found: type[Pool] = getattr(importlib.import_module(f"laila.pools.{_LATER[name]}"), name)
    return found
