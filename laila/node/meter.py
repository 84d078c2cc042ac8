"""How full pools and replicas are, without wearing them out: counting some stores means walking them.

A pool that is counted quickly is counted each time; one that takes longer is asked so seldom that counting
takes a twentieth of the time at most. Whether a pool is usable at all is asked each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from laila.clock import SYSTEM, Clock
from laila.errors import LailaError
from laila.pools.base import Pool

if TYPE_CHECKING:
    from laila.replication.replica import Replica

T = TypeVar("T")

QUICK = 0.02
"""Seconds; a count that took less is repeated whenever somebody asks."""
SHARE = 20
"""A slower count rests for so many times as long as it took."""
_PARTS = 256
_DIGEST = 16
_ANY = 1 << 62
"""A membership number that is never too old: a node counts what it has, whoever its members are."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One pool at one moment. `error` says why it is unusable; then `count` and `bytes` are None."""

    name: str
    kind: str
    durable: bool
    count: int | None
    bytes: int | None
    error: str | None


class Thrift:
    """Takes quick readings each time and slow ones seldom. Not safe under threads."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, Any]] = {}

    def take(self, key: str, read: Callable[[], T]) -> T:
        """What `read` says, or said lately. Raises what it raises."""
        started = self._clock.now()
        valid_until, known = self._known.get(key, (started, None))
        if started < valid_until:
            found: T = known
            return found
        value = read()
        ended = self._clock.now()
        self._known[key] = (ended + (SHARE * (ended - started) if ended - started > QUICK else 0.0), value)
        return value


class PoolMeter:
    """Reads pools; safe under threads, which wait for each other so that one disk is walked once."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._lock = threading.Lock()
        self._thrift = Thrift(clock)

    def read(self, pools: Mapping[str, Pool]) -> list[Reading]:
        """Every pool, in order. May wait for disks."""
        with self._lock:
            return [self._read(name, pool) for name, pool in pools.items()]

    def _read(self, name: str, pool: Pool) -> Reading:
        durable = pool.capabilities.durable
        try:
            pool.probe()
            count, nbytes = self._thrift.take(pool.global_id, lambda: (pool.count(), pool.nbytes()))
        except (LailaError, OSError) as error:
            return Reading(name, pool.kind, durable, None, None, str(error))
        return Reading(name, pool.kind, durable, count, nbytes, None)


class ReplicaMeter:
    """Reads one replica; safe under threads, as the one for pools."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._lock = threading.Lock()
        self._thrift = Thrift(clock)

    def read(self, replica: Replica) -> dict[str, int]:
        """Numbers of its `names`, of those `quarantined`, and of those that are `suspect`. May wait for disks.

        Raises: LailaError when it cannot be asked.
        """
        with self._lock:
            return self._thrift.take("", lambda: _counts(replica))


def _counts(replica: Replica) -> dict[str, int]:
    from laila.replication.tags import Unsure

    suspect, parts = 0, [""]
    while parts:
        now, parts = parts[-_PARTS:], parts[:-_PARTS]
        for part in replica.branches(now):
            suspect += sum(isinstance(found, Unsure) for _, found in part.entries)
            digests = [part.branches[at : at + _DIGEST] for at in range(0, len(part.branches), _DIGEST)]
            parts += [f"{part.prefix}{step:02x}" for step, digest in enumerate(digests) if any(digest)]
    names = len(replica.names(_ANY).live)
    return {"names": names, "quarantined": len(replica.quarantined()), "suspect": suspect}


def complaints(pools: Mapping[str, Pool]) -> list[str]:
    """One sentence per pool that cannot be used now. May wait for disks."""
    found = []
    for name, pool in pools.items():
        try:
            pool.probe()
        except (LailaError, OSError) as error:
            found.append(f"pool {name}: {error}")
    return found
