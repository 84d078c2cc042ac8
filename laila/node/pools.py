"""The pools of a node as its configuration tells them, and how they are opened.

A pool in a server has an address. One with a password in it is read from a file only, and never shown: arguments,
variables and what is printed from here are for everybody to see.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from laila.errors import BadConfig
from laila.node import secretfile
from laila.node.settings import NAME, Complaint, items, kind_of, path, size, text_of, words

if TYPE_CHECKING:
    from laila.pools.base import Pool

log = logging.getLogger("laila.node.pools")

SERVED_KINDS = ("redis", "postgres", "s3")
POOL_KINDS = ("memory", "filesystem", "sqlite", *SERVED_KINDS)
MAX_ADDRESS = 4096
"""Bytes of a file with an address in it."""
_POOL_KEYS = ("kind", "path", "url", "url_file", "max_entries", "max_bytes")
_EXAMPLES = {
    "redis": "redis://host:6379/0?pool=NAME",
    "postgres": "postgresql://user@host/database?pool=NAME",
    "s3": "s3://bucket/prefix?endpoint=https://s3.example.org&pool=NAME",
}
_SECRET_OPTION = re.compile(r"[?&](ssl_?)?password=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """One pool that the node opens and offers: its nickname, its kind, and where it keeps its data."""

    name: str
    kind: str
    path: Path | None = None
    url: str | None = None
    """The address of a server, without a secret in it."""
    url_file: Path | None = None
    """The file that holds the address."""
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
        if self.kind in SERVED_KINDS:
            self._check_address()
            return
        if self.url is not None or self.url_file is not None:
            raise Complaint(f"pool {self.name!r} is {self.kind} and has no address; drop url and url_file")
        if self.kind != "memory" and self.path is None:
            raise Complaint(
                f"pool {self.name!r} of kind {self.kind!r} needs a path; "
                f"write one like /var/lib/laila/{self.name}"
            )

    def _check_address(self) -> None:
        example = _EXAMPLES[self.kind]
        if self.path is not None:
            raise Complaint(
                f"pool {self.name!r} is in a server and takes no path; give url_file, a file that holds its address"
            )
        if (self.url is None) == (self.url_file is None):
            raise Complaint(
                f"pool {self.name!r} of kind {self.kind!r} needs either url, like {example}, or url_file, a file that "
                "holds such an address, with its password"
            )
        if self.url is not None:
            if "://" not in self.url:
                raise Complaint(f"the url of pool {self.name!r} is no address; write one like {example}")
            if _holds_secret(self.url):
                raise Complaint(
                    f"the url of pool {self.name!r} holds a password, which everybody could read here; write the "
                    "address into a file that only the node may read, and name that as url_file"
                )

    def __str__(self) -> str:
        place = self.url or self.url_file or self.path
        return f"{self.name}={self.kind}" + (f":{place}" if place is not None else "")


def pools(value: Any, base: Path) -> tuple[PoolConfig, ...]:
    found = list(_pool_tables(value, base) if isinstance(value, dict) else _pool_texts(value, base))
    seen: dict[str, PoolConfig] = {}
    for pool in found:
        if pool.name in seen:
            raise Complaint(f"the pool {pool.name!r} is named twice; give each its own name")
        seen[pool.name] = pool
    addresses = [place for pool in found if (place := pool.url or pool.url_file) is not None]
    if again := next((place for place in addresses if addresses.count(place) > 1), None):
        raise Complaint(f"two pools use the address {again}; give each its own, for example with ?pool=NAME")
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
            url = text_of(table["url"], "the address of a pool") if "url" in table else None
            url_file = path(table["url_file"], base) if "url_file" in table else None
            found.append(PoolConfig(pool_name, kind, place, url, url_file, **bounds))
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
            shown = "part of it" if "@" in text else repr(text)  # it may be the end of a password
            raise Complaint(
                f"{shown} is no pool; write NAME=KIND[:PATH], like 'kept=sqlite:/data/kept.sqlite'"
            )
        kind, _, place = rest.partition(":")
        kind, place = kind.strip(), place.strip()
        pool_name = pool_name.strip()
        if "://" in place or (place.startswith("//") and kind in SERVED_KINDS):
            found.append(PoolConfig(pool_name, kind, url=place if "://" in place else f"{kind}:{place}"))
        elif kind in SERVED_KINDS:
            found.append(PoolConfig(pool_name, kind, url_file=path(place, base) if place else None))
        else:
            found.append(PoolConfig(pool_name, kind, path(place, base) if place else None))
    return found


def _holds_secret(url: str) -> bool:
    try:
        return bool(urlsplit(url).password) or bool(_SECRET_OPTION.search(url))
    except ValueError:
        return True  # who knows


def open_pool(config: PoolConfig) -> Pool:
    """The pool, open. Raises StorageError or another LailaError if it cannot be."""
    from laila.pools import FilesystemPool, MemoryPool, PostgresPool, RedisPool, S3Pool, SqlitePool

    if config.kind == "memory":
        return MemoryPool(max_entries=config.max_entries, max_bytes=config.max_bytes)
    if config.kind in SERVED_KINDS:
        kinds: dict[str, Callable[[str], Pool]] = {"redis": RedisPool, "postgres": PostgresPool, "s3": S3Pool}
        return kinds[config.kind](config.url or _read_address(config))
    assert config.path is not None  # PoolConfig sees to it
    return SqlitePool(config.path) if config.kind == "sqlite" else FilesystemPool(config.path)


def _read_address(config: PoolConfig) -> str:
    """Raises BadConfig, which shows nothing of what is in the file."""
    file = config.url_file
    assert file is not None  # PoolConfig sees to it
    try:
        if exposed := secretfile.exposure(file):
            log.warning(exposed)
        with file.open("rb") as opened:
            text = opened.read(MAX_ADDRESS + 1)
        address = text.decode().strip()
    except OSError as error:
        raise BadConfig(
            f"{file} cannot be read: {error.strerror}; write the address of the pool into it"
        ) from error
    except UnicodeDecodeError:
        raise BadConfig(f"{file} is no text; write the address of the pool into it") from None
    if not address or len(text) > MAX_ADDRESS or len(address.split()) != 1:
        raise BadConfig(
            f"{file} holds no address; write one into it, one line like {_EXAMPLES[config.kind]}, with its password"
        )
    return address
