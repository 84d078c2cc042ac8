"""A replica that one node serves and another asks, over a real link, both in this process."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laila.artifacts import Artifact, Signer, TrustSet
from laila.codec import Buffer
from laila.limits import Limits
from laila.macros.defaults import DefaultPolicy
from laila.replication.copies import Copy
from laila.replication.directory import DirectoryReplica
from laila.replication.membership import encode
from laila.replication.peer import PeerReplica
from laila.replication.replica import Stamp
from laila.replication.service import ReplicaService
from laila.replication.views import Member, View
from laila.transport.identity import Identity
from tests.peering.support import SECRET, node

WHERE = "laila://server/store"
SERVICE = "replica/store"
STORE = "5" * 32
ME = Identity.ephemeral()
TRUST = TrustSet([ME])
MIB = 1 << 20
CALM = Limits(dead_after=90.0, connect_timeout=60.0, request_timeout=180.0)
"""For tests that are about replicas: a machine with too much to do takes its time, and nobody is taken for dead."""

Handler = Callable[[Any, dict[str, Any], Sequence[Buffer]], Any]


def version(name: str, sequence: int = 1, size: int = 100, *, key: Identity = ME, gone: bool = False) -> Copy:
    """A signed version of random bytes. Close it."""
    artifact = Artifact.create("writer")
    if not gone:
        artifact.add_binary(os.urandom(size))
    artifact.name_as(name, sequence=sequence, gone=gone)
    return Copy.encode(name, artifact, Signer(key), TrustSet([key]))


def membership(number: int) -> bytes:
    """A document of the store whose replica is served."""
    view = View(STORE, number, (Member("1" * 32, "/one"),))
    return encode(view, Signer(ME), TRUST, by="a test")


def bytes_of(copy: Copy) -> bytes:
    return b"".join(bytes(piece) for _, piece in copy.chunks())


@dataclass
class Served:
    """Both sides. `answer` may be replaced, to look at or to change what the server does."""

    server: DefaultPolicy
    client: DefaultPolicy
    port: int
    directory: Path
    replica: DirectoryReplica
    service: ReplicaService
    peer: PeerReplica
    answer: Handler

    def before(self, word: str, act: Callable[[int], object]) -> None:
        """Call `act(n)` before the n-th question of that word, from 1 on, is answered."""
        count = itertools.count(1)

        def answer(asker: Any, words: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
            if words.get("do") == word:
                act(next(count))
            return self.service(asker, words, buffers)

        self.answer = answer


@contextmanager
def served(path: Path, *, timeout: float = 150.0, idle: float = 60.0) -> Iterator[Served]:
    with node("server", limits=CALM) as (server, protocol), node("client", limits=CALM) as (client, _):
        replica = DirectoryReplica(path, TRUST, where=WHERE)
        replica.mark(Stamp(STORE, "one"))
        service = ReplicaService(replica, TRUST, idle=idle, alive=server.communication.is_connected)
        client.communication.add_tcpip_peer("127.0.0.1", protocol.port, SECRET)
        peer = PeerReplica(
            WHERE,
            lambda: client.communication.peers.named("server"),
            SERVICE,
            timeout=timeout,
            trust=TRUST,
        )
        found = Served(server, client, protocol.port, path, replica, service, peer, service)
        server.services.offer(SERVICE, lambda asker, words, buffers: found.answer(asker, words, buffers))
        try:
            yield found
        finally:
            peer.close()
            service.close()
            replica.close()
