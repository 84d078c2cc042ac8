"""Where replicas are: from what people write to objects that answer.

    /data/backup1, a Path              a directory
    laila://NODE/STORE                 what a node serves: NODE is a peer's name or id, or HOST:PORT
    pool:NICKNAME, a Pool              a pool of this program's memory; a Pool is named by its kind and place

Nodes given as HOST:PORT are dialed with the cluster's secret. A program that has a policy dials with that, so that one
link serves everything; another one gets an endpoint for its replicas alone, which ends with the store.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ..artifacts import TrustSet
from ..artifacts.trust import further_secrets, known_secret
from ..codec import Buffer
from ..errors import BadConfig, LailaError, Unreachable
from ..names import check_name
from ..pools import Pool
from ..verbs import CallFuture
from ..wire.messages import Answer, Op
from .replica import Replica

if TYPE_CHECKING:
    from ..dialer import Dialer
    from ..endpoint import Communication
    from ..lanes import Lanes
    from ..policy import DefaultPolicy
    from ..proxies import Remote

Place = str | os.PathLike[str] | Pool | Replica
SCHEME = "laila://"
POOL = "pool:"
STORE = "store"
"""The name of a store in a pool, and of one that a node serves, when none is given."""
PATIENCE = 3.0
"""Seconds that a call waits for a node that is being dialed for the first time."""
DEFAULT_PORT = 7400


def where_of(place: Place) -> str:
    """The text that names a place in the membership. Raises BadConfig for what can be none."""
    if isinstance(place, Replica):
        return place.where
    if isinstance(place, Pool):
        return f"{POOL}{place.place}"
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else ""
    if not isinstance(text, str) or not text or "\0" in text:
        raise BadConfig(
            f"{place!r} is no place of a replica; give a directory, {SCHEME}NODE/STORE or {POOL}NAME"
        )
    if text.startswith((SCHEME, POOL)):
        return text.rstrip("/")
    if "://" in text:
        scheme = text.partition("://")[0]
        raise BadConfig(
            f"no replica is reached by {scheme}://; give a directory, {SCHEME}NODE/STORE, or {POOL}NICKNAME for a pool "
            "that this program has (Redis, PostgreSQL and S3 are pools)"
        )
    return str(Path(text).expanduser().absolute())


class Locations:
    """Opens replicas for one store; close it after them."""

    def __init__(
        self,
        trust: TrustSet,
        *,
        policy: DefaultPolicy | None = None,
        secret: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._trust = trust
        self._policy = policy
        self._secret = secret or known_secret()
        self._also_accept = further_secrets()
        self._timeout = timeout
        self._lock = threading.Lock()
        self._dialers: dict[str, Dialer] = {}
        self._owned: list[Dialer] = []
        self._own: Communication | None = None
        self._lanes: Lanes | None = None

    def open(self, place: Place) -> Replica:
        """The replica there; whether it answers is seen when it is asked. Raises BadConfig, StorageError."""
        if isinstance(place, Replica):
            return place
        where = where_of(place)
        if isinstance(place, Pool):
            return self._pool(where, place)
        if where.startswith(SCHEME):
            return self._peer(where)
        if where.startswith(POOL):
            return self._pool(where, self._policy_of(where).memory.pool(where.removeprefix(POOL)))
        from .directory import DirectoryReplica

        return DirectoryReplica(where, self._trust, where=where, create=False)

    def close(self) -> None:
        """Stop dialing; links of the program's own policy stay."""
        with self._lock:
            own, self._own = self._own, None
            lanes, self._lanes = self._lanes, None
            dialers = list(self._owned)
            self._owned.clear()
            self._dialers.clear()
        if own is not None:
            own.stop()
        elif self._policy is not None:
            for dialer in dialers:
                self._policy.communication.forget_dialer(dialer)
        if lanes is not None:
            lanes.close()

    def _pool(self, where: str, pool: Pool) -> Replica:
        from .pool import PoolReplica

        return PoolReplica(pool, self._trust, where=where, store=STORE)

    def _peer(self, where: str) -> Replica:
        from .peer import PeerReplica

        node, _, store = where.removeprefix(SCHEME).partition("/")
        node, store = unquote(node), check_name("store", unquote(store) or STORE)
        if not node:
            raise BadConfig(f"{where!r} names no node; write {SCHEME}NODE/{store}")
        connect = self._connection(node, where)
        return PeerReplica(where, connect, f"replica/{store}", timeout=self._timeout, trust=self._trust)

    def _connection(self, node: str, where: str) -> Callable[[], Remote | Here]:
        address = address_of(node)
        if address is None:
            policy = self._policy_of(where)
            return lambda: policy.communication.peers.named(node)
        host, port = address
        if self._secret is None:
            raise BadConfig(
                f"{where} is to be dialed, and the cluster's secret is not known: give `secret`, or set "
                "LAILA_SECRET_FILE"
            )
        secret = self._secret

        from ..dialer import DialerState

        def connect() -> Remote | Here:
            communication, dialer = self._dialed(host, port, secret)
            end = time.monotonic() + PATIENCE
            while not dialer.peer_id and dialer.last_error is None and time.monotonic() < end:
                time.sleep(0.002)
            if dialer.state is DialerState.SELF and self._policy is not None:
                return Here(self._policy)
            peer = communication.peers.find(dialer.peer_id) if dialer.peer_id else None
            if peer is None or not peer.connected:
                raise Unreachable(f"{where} is not connected: {dialer.last_error or 'it does not answer'}")
            return peer

        return connect

    def _dialed(self, host: str, port: int, secret: str) -> tuple[Communication, Dialer]:
        """One dialer per address, and the endpoint that it belongs to. One that the program's policy has is used."""
        from ..transport.tcp import format_address

        with self._lock:
            communication = self._communication()
            address = format_address(host, port)
            dialer = self._dialers.get(address)
            if dialer is None or dialer.closed:
                there = (one for one in communication.dialers if one.address == address and not one.closed)
                dialer = next(there, None)
                if dialer is None:
                    dialer = communication.maintain(host, port, secret, also_accept=self._also_accept)
                    self._owned.append(dialer)
                self._dialers[address] = dialer
            return communication, dialer

    def _communication(self) -> Communication:
        if self._policy is not None:
            return self._policy.communication
        if self._own is None:
            from ..endpoint import Communication
            from ..lanes import Lanes
            from ..limits import Limits
            from ..router import Router
            from ..transport.identity import Identity

            lanes = self._lanes = Lanes(1, "replicas")
            self._own = Communication(Identity.ephemeral(), "replicas", Router(), Limits(), lambda: lanes)
        return self._own

    def _policy_of(self, where: str) -> DefaultPolicy:
        if self._policy is None:
            raise BadConfig(
                f"{where} is a peer or a pool of a policy, and this program has none: make one "
                f"(laila.DefaultPolicy), give `policy`, or write {SCHEME}HOST:PORT/STORE"
            )
        return self._policy


class Here:
    """This program's own node, when it is one of those that were named: its services are asked without a link."""

    def __init__(self, policy: DefaultPolicy) -> None:
        self._policy = policy

    def invoke(self, service: str, question: dict[str, Any], buffers: Sequence[Buffer] = ()) -> CallFuture:
        """As a peer's; carried out in the thread that asks."""
        from ..serving import Asker

        future = CallFuture(Op.INVOKE, (), True)
        try:
            handler = self._policy.services.find(service)
            answer = handler(Asker(self._policy.global_id, self._policy.name), question, buffers)
        except LailaError as error:
            future.reject(error)
        else:
            future.resolve(answer if isinstance(answer, Answer) else Answer(answer))
        return future


def address_of(node: str) -> tuple[str, int] | None:
    """HOST:PORT in parts, IPv6 in brackets; None for what is a peer's name or id. Raises BadConfig."""
    host, colon, port = node.rpartition(":")
    if not colon:
        return None
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadConfig(
            f"{node!r} is no HOST:PORT; write it like node2:{DEFAULT_PORT}, or [::1]:{DEFAULT_PORT}"
        )
    return host, int(port)


def close_quietly(replicas: list[Replica]) -> None:
    """Close each, also when closing one fails."""
    for replica in replicas:
        try:
            replica.close()
        except LailaError:
            continue
