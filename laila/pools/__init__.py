"""Where entries live: one interface, several stores. Stores on a disk are imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laila.pools.base import Capabilities, Pool
from laila.pools.memory import DefaultPool, MemoryPool

if TYPE_CHECKING:
    from laila.pools.filesystem import FilesystemPool
    from laila.pools.sqlite import SqlitePool

__all__ = ["Capabilities", "DefaultPool", "FilesystemPool", "MemoryPool", "Pool", "SqlitePool"]


def __getattr__(name: str) -> type[Pool]:
    if name == "FilesystemPool":
        from laila.pools.filesystem import FilesystemPool

        return FilesystemPool
    if name == "SqlitePool":
        from laila.pools.sqlite import SqlitePool

        return SqlitePool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
