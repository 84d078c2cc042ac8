"""How full the pools are, without wearing them out: counting some stores means walking them.

A pool that is counted quickly is counted each time; one that takes longer is asked so seldom that counting
takes a twentieth of the time at most. Whether a pool is usable at all is asked each time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from laila.clock import SYSTEM, Clock
from laila.errors import LailaError
from laila.pools.base import Pool

QUICK = 0.02
"""Seconds; a count that took less is repeated whenever somebody asks."""
SHARE = 20
"""A slower count rests for so many times as long as it took."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One pool at one moment. `error` says why it is unusable; then `count` and `bytes` are None."""

    name: str
    kind: str
    durable: bool
    count: int | None
    bytes: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class _Counted:
    count: int
    bytes: int
    valid_until: float


class PoolMeter:
    """Reads pools; safe under threads, which wait for each other so that one disk is walked once."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: dict[str, _Counted] = {}

    def read(self, pools: Mapping[str, Pool]) -> list[Reading]:
        """Every pool, in order. May wait for disks."""
        with self._lock:
            return [self._read(name, pool) for name, pool in pools.items()]

    def _read(self, name: str, pool: Pool) -> Reading:
        durable = pool.capabilities.durable
        try:
            pool.probe()
            counted = self._count(pool)
        except (LailaError, OSError) as error:
            return Reading(name, pool.kind, durable, None, None, str(error))
        return Reading(name, pool.kind, durable, counted.count, counted.bytes, None)

    def _count(self, pool: Pool) -> _Counted:
        started = self._clock.now()
        known = self._counted.get(pool.global_id)
        if known is not None and started < known.valid_until:
            return known
        count, nbytes = pool.count(), pool.nbytes()
        ended = self._clock.now()
        rest = SHARE * (ended - started) if ended - started > QUICK else 0.0
        counted = self._counted[pool.global_id] = _Counted(count, nbytes, ended + rest)
        return counted


def complaints(pools: Mapping[str, Pool]) -> list[str]:
    """One sentence per pool that cannot be used now. May wait for disks."""
    found = []
    for name, pool in pools.items():
        try:
            pool.probe()
        except (LailaError, OSError) as error:
            found.append(f"pool {name}: {error}")
    return found
