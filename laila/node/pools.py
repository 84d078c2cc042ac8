"""The pools of a node as its configuration tells them, and how they are opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laila.node.settings import NAME, Complaint, items, kind_of, path, size, text_of, words

if TYPE_CHECKING:
    from laila.pools.base import Pool

POOL_KINDS = ("memory", "filesystem", "sqlite")
_POOL_KEYS = ("kind", "path", "max_entries", "max_bytes")


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """One pool that the node opens and offers: its nickname, its kind, and where it keeps its data."""

    name: str
    kind: str
    path: Path | None = None
    max_entries: int | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise Complaint(f"{self.name!r} is no pool name; use up to 63 letters, digits, '.', '_' and '-'")
        if self.kind not in POOL_KINDS:
            raise Complaint(
                f"pool {self.name!r} has the unknown kind {self.kind!r}; use one of {words(POOL_KINDS)}"
            )
        if self.kind == "memory" and self.path is not None:
            raise Complaint(
                f'pool {self.name!r} lives in memory and takes no path; drop it, or use kind "sqlite"'
            )
        if self.kind != "memory" and (self.max_entries is not None or self.max_bytes is not None):
            raise Complaint(
                f"pool {self.name!r} is {self.kind}; only memory pools have max_entries and max_bytes"
            )
        if self.kind != "memory" and self.path is None:
            raise Complaint(
                f"pool {self.name!r} of kind {self.kind!r} needs a path; "
                f"write one like /var/lib/laila/{self.name}"
            )

    def __str__(self) -> str:
        return f"{self.name}={self.kind}" + (f":{self.path}" if self.path is not None else "")


def pools(value: Any, base: Path) -> tuple[PoolConfig, ...]:
    found = list(_pool_tables(value, base) if isinstance(value, dict) else _pool_texts(value, base))
    seen: dict[str, PoolConfig] = {}
    for pool in found:
        if pool.name in seen:
            raise Complaint(f"the pool {pool.name!r} is named twice; give each its own name")
        seen[pool.name] = pool
    stored = [pool.path for pool in found if pool.path is not None]
    if twice := next((place for place in stored if stored.count(place) > 1), None):
        raise Complaint(f"two pools use the path {twice}; give each its own")
    return tuple(found)


def _pool_tables(value: Mapping[str, Any], base: Path) -> list[PoolConfig]:
    found = []
    for pool_name, table in value.items():
        if not isinstance(table, dict):
            raise Complaint(
                f'pool {pool_name!r} is {kind_of(table)}; write [pools.{pool_name}] and kind = "memory"',
                (pool_name,),
            )
        for key in table:
            if key not in _POOL_KEYS:
                raise Complaint(
                    f"pool {pool_name!r} has the unknown key {key!r}; known are {words(_POOL_KEYS)}",
                    (pool_name, key),
                )
        bounds = {
            key: _bound(pool_name, key, table[key]) for key in ("max_entries", "max_bytes") if key in table
        }
        try:
            kind = text_of(table.get("kind", "memory"), "the kind of a pool")
            place = path(table["path"], base) if "path" in table else None
            found.append(PoolConfig(pool_name, kind, place, **bounds))
        except Complaint as complaint:
            raise Complaint(str(complaint), (pool_name, "kind")) from complaint
    return found


def _bound(pool_name: str, key: str, value: Any) -> int:
    try:
        number = size(value) if isinstance(value, str) else value
    except Complaint as complaint:
        raise Complaint(f"pool {pool_name!r}, {key}: {complaint}", (pool_name, key)) from complaint
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise Complaint(
            f'pool {pool_name!r}: {key} must be a whole number above 0, or a size like "64MiB"',
            (pool_name, key),
        )
    return number


def _pool_texts(value: Any, base: Path) -> list[PoolConfig]:
    found = []
    for text in items(
        ",", 'tables like [pools.scratch], or text like "scratch=memory,kept=sqlite:/data/kept.sqlite"'
    )(value):
        pool_name, equals, rest = text.partition("=")
        if not equals:
            raise Complaint(
                f"{text!r} is no pool; write NAME=KIND[:PATH], like 'kept=sqlite:/data/kept.sqlite'"
            )
        kind, _, place = rest.partition(":")
        found.append(PoolConfig(pool_name.strip(), kind.strip(), path(place, base) if place else None))
    return found


def open_pool(config: PoolConfig) -> Pool:
    """The pool, open. Raises StorageError or another LailaError if it cannot be."""
    from laila.pools import FilesystemPool, MemoryPool, SqlitePool

    if config.kind == "memory":
        return MemoryPool(max_entries=config.max_entries, max_bytes=config.max_bytes)
    assert config.path is not None  # PoolConfig sees to it
    return SqlitePool(config.path) if config.kind == "sqlite" else FilesystemPool(config.path)
