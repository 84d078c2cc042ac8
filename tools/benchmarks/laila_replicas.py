"""laila's ReplicatedStore over three nodes, each a `laila node` that serves a directory to its peers.

A put makes a new artifact, which is signed here and verified by every replica; a get verifies what it returns. The
client is a peer of all three nodes, with one link to each.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .replica_contender import SERVERS, Place, ReplicaContender

STORE = "store"
POOL = "memory"
PATIENCE = 60.0


class Laila(ReplicaContender):
    """The store as a user has it; what `replica_quorum` measures beside it is opened on the same links."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.policy: Any = None
        self.peers: list[Any] = []
        self.store: Any = None

    def serve(self, number: int) -> Sequence[str]:
        place, own = self.place, self.place.own(number)
        secret = own / "secret"
        secret.touch(mode=0o600)
        secret.write_text(place.secret)
        os.environ |= {
            "LAILA_NAME": f"bench{number}",
            "LAILA_LISTEN": f"127.0.0.1:{place.port(number)}",
            "LAILA_STATUS": f"127.0.0.1:{place.other(number)}",
            "LAILA_SECRET_FILE": str(secret),
            "LAILA_STATE_DIR": str(own / "state"),
            "LAILA_REPLICAS": f"{STORE}={self.directory(number)}",
            "LAILA_POOLS": f"{POOL}=memory",
            "LAILA_LOG_LEVEL": "warning",
        }
        return [sys.executable, "-m", "laila.cli.main", "node"]

    def directory(self, number: int) -> Path:
        """Where a node keeps its replica."""
        return self.place.own(number) / "replica"

    def connect(self) -> None:
        from laila import ReplicatedStore
        from laila.macros.defaults import DefaultPolicy

        self.policy = DefaultPolicy()
        ids = [self._peering(self.place.port(number)) for number in range(SERVERS)]
        self.peers = [self.policy.peers[each] for each in ids]
        self.wheres = [f"laila://{each}/{STORE}" for each in ids]
        self.store = ReplicatedStore(self.wheres, secret=self.place.secret, policy=self.policy)

    def put(self, name: str, value: bytes) -> None:
        self.store.save(name, artifact_of(value))

    def get(self, name: str) -> bytes:
        found: bytes = self.store.load(name).get_content_list()[0]["content"]
        return found

    def _peering(self, port: int) -> str:
        from laila.errors import LailaError

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                peer: str = self.policy.communication.add_tcpip_peer("127.0.0.1", port, self.place.secret)
                return peer
            except LailaError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def artifact_of(value: bytes) -> Any:
    """A new artifact that holds it."""
    from laila.maif import create_maif

    artifact = create_maif("bench")
    artifact.add_binary(value)
    return artifact
