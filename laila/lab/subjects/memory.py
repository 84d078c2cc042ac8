"""The memory of nodes, through the program's own node: each key lives in a durable pool of one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from laila.errors import EntryNotFound, NotFound
from laila.lab.subjects import cluster
from laila.lab.subjects.base import Subject, Words, text

JOIN = 40.0


class Memory(Subject):
    """Options: `nodes` (JSON: name to host:port), `own` (the node that it works beside), `pool`."""

    name = "memory"
    summary = "the durable pools of all nodes, each key in one of them"
    ops = ("read", "write", "peers")

    def __init__(self, options: Mapping[str, str]) -> None:
        from laila.lab.client import CLIENT_NAME

        self._lab = CLIENT_NAME
        nodes, own = cluster.table(options, "nodes"), cluster.option(options, "own")
        self._names = sorted(nodes)
        self._own = own
        self._pool = options.get("pool", "durable")
        self._policy = cluster.join({own: nodes[own]}, 1, JOIN)

    def write(self, words: Words, timeout: float) -> dict[str, Any]:
        import laila

        key = text(words, "key")
        entry = laila.constant(json.dumps(words.get("value")), nickname=key)
        self._home(key).memorize(entries=[entry], pool_nickname=self._pool).wait(timeout)
        return {}

    def read(self, words: Words, timeout: float) -> dict[str, Any]:
        import laila

        key = text(words, "key")
        entry = laila.constant("", nickname=key).global_id
        future = self._home(key).remember(entry_ids=[entry], pool_nickname=self._pool)
        try:
            future.wait(timeout)
            return {"value": json.loads(future.data[0])}
        except EntryNotFound:
            return {"value": None}

    def peers(self, words: Words, timeout: float) -> dict[str, Any]:
        """The nodes that the own node lists as up."""
        found = self._node(self._own).peers
        names = {str(item.get("peer_name")) for item in found if item.get("state") == "up"}
        return {"peers": sorted(names & set(self._names))}

    def close(self) -> None:
        self._policy.close()

    def _home(self, key: str) -> Any:
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
        return self._node(self._names[number % len(self._names)])

    def _node(self, name: str) -> Any:
        for link in cluster.up(self._policy):
            if link.peer_name == self._own:
                own = self._policy.peers[link.peer_id]
                return own if name == self._own else own.at(name)
        raise NotLinked(f"no link to {self._own}")


class NotLinked(NotFound):
    """The own node cannot be reached now: nothing was asked."""

    executed = "no"
