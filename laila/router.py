"""Which pool a nickname means.

Strategy: the table is never changed in place. A writer copies it under a lock and swaps it in, so
`pool(nickname)`, on the path of every request, is one dict lookup without a lock, and `pools` is a snapshot
that stays as it was.

There is always a pool called "alpha": the default, in memory unless another is assigned.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType

from laila.errors import BadValue, Closed, UnknownPool
from laila.pools.base import Pool, close_all
from laila.pools.memory import MemoryPool

ALPHA = "alpha"
"""Nickname of the default pool."""
MAX_NICKNAME = 255
"""Longest nickname, in characters."""
_LISTED = 20  # nicknames that an error message lists


class Router:
    """Pools by nickname. Safe under threads.

    >>> router = Router()
    >>> router.extend(pool=MemoryPool(), pool_nickname="scratch") is router.pool("scratch")
    True
    """

    def __init__(self, alpha_pool: Pool | None = None) -> None:
        self._changing = threading.Lock()
        self._alpha: Pool = MemoryPool() if alpha_pool is None else alpha_pool
        self._pools: dict[str, Pool] = {ALPHA: self._alpha}
        self._owned: dict[int, Pool] = {id(self._alpha): self._alpha}
        self._closed = False

    def pool(self, nickname: str | None = None) -> Pool:
        """The pool called `nickname`; the alpha pool for None. Raises UnknownPool, which lists the pools."""
        if nickname is None:
            return self._alpha
        try:
            return self._pools[nickname]
        except (KeyError, TypeError):
            raise self._unknown(nickname) from None

    def extend(
        self, pool: Pool, pool_nickname: str | None = None, *, replace: bool = False, own: bool = True
    ) -> Pool:
        """Make `pool` known under a nickname (its global_id if none is given) and return it.

        The router closes it in `close()`, unless `own` is false (a pool that several routers share).
        Raises BadValue if the nickname belongs to another pool and `replace` is false.
        """
        if not isinstance(pool, Pool):
            raise BadValue(f"pool must be a pool such as MemoryPool(), not {type(pool).__name__}")
        nickname = pool.global_id if pool_nickname is None else _checked(pool_nickname)
        with self._changing:
            if self._closed:
                raise Closed("this memory was closed; no pool can be added")
            known = self._pools.get(nickname)
            if known is not None and known is not pool and not replace:
                raise BadValue(
                    f"the nickname {nickname!r} already means {known!r}; choose another, or say replace=True"
                )
            self._pools = {**self._pools, nickname: pool}
            self._alpha = self._pools[ALPHA]
            if own:
                self._owned[id(pool)] = pool
        return pool

    def remove(self, nickname: str) -> Pool:
        """Forget the nickname and return its pool, open; the caller's to close if no other nickname means it.

        Raises UnknownPool, and BadValue for "alpha": there is always a default pool.
        """
        if nickname == ALPHA:
            raise BadValue('the pool "alpha" is the default and cannot be removed; assign alpha_pool instead')
        with self._changing:
            pool = self.pool(nickname)
            self._pools = {name: other for name, other in self._pools.items() if name != nickname}
            if pool not in self._pools.values():
                self._owned.pop(id(pool), None)
        return pool

    @property
    def pools(self) -> Mapping[str, Pool]:
        """Every nickname and its pool, as they are now."""
        return MappingProxyType(self._pools)

    @property
    def alpha_pool(self) -> Pool:
        """The default pool. Assign another to replace it; the one before stays open until `close()`."""
        return self._alpha

    @alpha_pool.setter
    def alpha_pool(self, pool: Pool) -> None:
        self.extend(pool, ALPHA, replace=True)

    def close(self) -> None:
        """Close every owned pool. May be called again. An error of one is raised after all were tried."""
        with self._changing:
            self._closed = True
            owned, self._owned = self._owned, {}
        close_all(owned.values())

    def _unknown(self, nickname: object) -> UnknownPool:
        from difflib import get_close_matches  # only a mistake pays for this import

        names = sorted(self._pools)
        close = get_close_matches(nickname, names, n=3) if isinstance(nickname, str) else []
        listed = close + [name for name in names if name not in close]
        more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        hint = f"; did you mean {close[0]!r}?" if close else "."
        return UnknownPool(
            f"no pool is called {nickname!r}{hint} Pools here: {', '.join(listed[:_LISTED])}{more}"
        )

    def __repr__(self) -> str:
        return f"<Router {', '.join(self._pools)}{' closed' if self._closed else ''}>"


def _checked(nickname: str) -> str:
    if not isinstance(nickname, str):
        raise BadValue(f"a pool's nickname must be a str, not {type(nickname).__name__}")
    if not 0 < len(nickname) <= MAX_NICKNAME or not nickname.isprintable() or nickname == "*":
        raise BadValue(
            f"{nickname[:80]!r} cannot be a pool's nickname: it takes 1 to {MAX_NICKNAME} printable "
            'characters, and "*" means all pools'
        )
    return nickname
