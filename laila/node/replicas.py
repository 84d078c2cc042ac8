"""The replicas that a node serves to its peers: as its configuration tells them, how they are opened, how they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laila.errors import LailaError
from laila.node.meter import ReplicaMeter
from laila.node.pools import PoolConfig
from laila.node.replica_map import BLANK, OK, REBUILDING, UNREACHABLE, ReplicaView
from laila.node.settings import NAME, Complaint, items, kind_of, path, text_of

if TYPE_CHECKING:
    from laila.artifacts import TrustSet
    from laila.policy import DefaultPolicy
    from laila.replication.replica import Replica
    from laila.replication.service import ReplicaService
    from laila.transport.identity import Identity

SERVICE = "replica/"
_POOL = "pool:"


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """One replica that the node serves: its name, and the directory or the pool that it lives in."""

    name: str
    path: Path | None = None
    pool: str | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise Complaint(
                f"{self.name!r} is no name of a replica; use up to 63 letters, digits, '.', '_' and '-'"
            )

    @property
    def where(self) -> str:
        return f"{_POOL}{self.pool}" if self.pool is not None else str(self.path)

    def __str__(self) -> str:
        return f"{self.name}={self.where}"


def replicas(value: Any, base: Path) -> tuple[ReplicaConfig, ...]:
    found = list(_table(value, base) if isinstance(value, dict) else _texts(value, base))
    names = [replica.name for replica in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Complaint(f"the replica {twice!r} is named twice; give each its own name")
    places = [str(replica.path.absolute()) for replica in found if replica.path is not None]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise Complaint(f"two replicas use the path {twice}; give each its own, or they fail together")
    return tuple(found)


def _table(value: Mapping[str, Any], base: Path) -> list[ReplicaConfig]:
    found = []
    for name, place in value.items():
        if not isinstance(place, str):
            raise Complaint(
                f"replica {name!r} is {kind_of(place)}; write a path or pool:NICKNAME in quotes", (name,)
            )
        try:
            found.append(_replica(name, place, base))
        except Complaint as complaint:
            raise Complaint(str(complaint), (name,)) from complaint
    return found


def _texts(value: Any, base: Path) -> list[ReplicaConfig]:
    found = []
    for text in items(",", 'a table like [replicas], or text like "store=/var/lib/laila/replica"')(value):
        name, equals, place = text.partition("=")
        if not equals:
            raise Complaint(
                f"{text!r} is no replica; write NAME=PATH, like 'store=/var/lib/laila/replica', or NAME=pool:NICKNAME"
            )
        found.append(_replica(name.strip(), place, base))
    return found


def _replica(name: str, place: str, base: Path) -> ReplicaConfig:
    place = text_of(place, "a path")
    if not place.startswith(_POOL):
        if not place:
            raise Complaint(f"replica {name!r} has no place; write {name}=PATH, or {name}=pool:NICKNAME")
        return ReplicaConfig(name, path=path(place, base))
    return ReplicaConfig(name, pool=place.removeprefix(_POOL))


def check_pools(found: Sequence[ReplicaConfig], pools: Sequence[PoolConfig]) -> None:
    """Complaint when a replica is to live in a pool that there is not, or that forgets."""
    kinds = {pool.name: pool.kind for pool in pools}
    for replica in found:
        if replica.pool is None:
            continue
        kind = kinds.get(replica.pool)
        if kind is None:
            known = ", ".join(sorted(kinds)) or "none"
            raise Complaint(
                f"replica {replica.name!r} is to live in pool {replica.pool!r}, which `pools` does not name "
                f"(it names {known}); add it there"
            )
        if kind == "memory":
            raise Complaint(
                f"replica {replica.name!r} is to live in pool {replica.pool!r}, which forgets when the node stops; "
                "what a replica acknowledges must stay: use a durable pool, or a path"
            )


def open_replica(config: ReplicaConfig, trust: TrustSet, policy: DefaultPolicy) -> Replica:
    """The replica, open. Raises StorageError or another LailaError if it cannot be."""
    if config.pool is not None:
        from laila.replication.pool import PoolReplica

        return PoolReplica(policy.memory.pool(config.pool), trust, where=config.where, store=config.name)
    from laila.replication.directory import DirectoryReplica

    assert config.path is not None  # ReplicaConfig sees to it
    return DirectoryReplica(config.path.absolute(), trust, where=config.where)


def trust_of(identity: Identity, secrets: Sequence[str]) -> TrustSet:
    """Whom the replicas of a node believe: itself, and whoever any of the cluster's secrets vouches for."""
    from laila.artifacts import TrustSet

    return TrustSet([identity], secret=secrets[0], also_accept=secrets[1:])


class ServedReplica:
    """One replica that is offered to peers, and what is known of it.

    `keeper`, when there is one, completes a view by what it knows of the other replicas of the store.
    """

    def __init__(self, config: ReplicaConfig, replica: Replica, service: ReplicaService) -> None:
        self.name = config.name
        self.where = config.where
        self.replica = replica
        self.service = service
        self.keeper: Callable[[ReplicaView], ReplicaView] | None = None
        self._meter = ReplicaMeter()

    def view(self) -> ReplicaView:
        """Where it stands, waiting for its disk at most."""
        counts = self.service.counts
        view = ReplicaView(
            self.name,
            self.where,
            UNREACHABLE,
            puts=counts.puts,
            fetches=counts.fetches,
            bytes_in=counts.bytes_taken,
            bytes_out=counts.bytes_served,
        )
        try:
            view = dataclasses.replace(view, **self._found())
        except (LailaError, OSError) as error:
            view = dataclasses.replace(view, error=str(error))
        return view if self.keeper is None else self.keeper(view)

    def close(self) -> None:
        self.service.close()
        self.replica.close()

    def _found(self) -> dict[str, Any]:
        stamp, document = self.replica.stamp(), self.replica.membership()
        return {
            "state": REBUILDING if stamp.rebuilding else OK if stamp.replica else BLANK,
            **self._meter.read(self.replica),
            "number": None if document is None else _number(document),
        }


def _number(document: bytes) -> int:
    from laila.artifacts import Artifact

    return Artifact.from_bytes(document).sequence
