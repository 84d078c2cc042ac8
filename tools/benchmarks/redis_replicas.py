"""Redis with two replicas, by redis-py: every server appends to its file with fsync always.

A put is SET and `WAIT 1` in one pipeline: the writer's and one replica's word, which is a majority. That is as durable
as Redis 7.0 gets, and less than the others promise: a failover may choose the replica that lacks the value, and a
get asks the first server alone, which may have been replaced without its knowing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from .replica_contender import SERVERS, Place, ReplicaContender

PATIENCE = 30.0
WAIT = 5000  # milliseconds


class Redis(ReplicaContender):
    """One client object; its pool has a connection for each thread."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.client: Any = None

    def serve(self, number: int) -> Sequence[str]:
        place = self.place
        role = (
            ["--replicaof", "127.0.0.1", str(place.port(0))]
            if number
            else ["--repl-diskless-sync-delay", "0"]
        )
        return [
            os.environ["BENCH_REDIS_SERVER"], "--bind", "127.0.0.1", "--port", str(place.port(number)),
            "--dir", str(place.own(number)), "--appendonly", "yes", "--appendfsync", "always", "--save", "",
            "--daemonize", "no", "--loglevel", "warning", *role,
        ]  # fmt: skip

    def connect(self) -> None:
        import redis

        self.client = redis.Redis(host="127.0.0.1", port=self.place.port(0))
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if self.client.info("replication")["connected_slaves"] == SERVERS - 1:
                    self.client.set("ready", b"")
                    if self.client.wait(SERVERS - 1, 1000) == SERVERS - 1:
                        return
            except redis.exceptions.ConnectionError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"the replicas of redis did not follow within {PATIENCE:.0f} s")
            time.sleep(0.05)

    def put(self, name: str, value: bytes) -> None:
        pipeline = self.client.pipeline(transaction=False)
        pipeline.set(name, value)
        pipeline.wait(1, WAIT)
        if pipeline.execute()[1] < 1:
            raise TimeoutError("no replica of redis has the value")

    def get(self, name: str) -> bytes:
        found: bytes = self.client.get(name)
        return found
