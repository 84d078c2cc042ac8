"""What nodes share on a volume: artifacts, locks, agents."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laila.agents import DistributedAgent
from laila.artifacts import create_maif
from laila.errors import ArtifactNotFound, LockTimeout
from laila.lab.subjects import cluster
from laila.lab.subjects.base import Refused, Subject, Words, named, text, valued
from laila.locks import Hold, connect
from laila.shared import SharedArtifactStore

EXPIRY = 3600.0
"""Seconds: agents of a trial do not beat, and must not expire while it runs."""
PATIENCE = 4.0
"""Seconds that an operation waits for a lock: less than it may take, so that it says itself that it had to give up."""


class Shared(Subject):
    """Option: `directory`, on the volume. Reads go through the cache and past it by turns."""

    name = "shared"
    summary = "a SharedArtifactStore on the shared volume"
    ops = ("read", "write", "cas")

    def __init__(self, options: Mapping[str, str]) -> None:
        self._store = SharedArtifactStore(cluster.option(options, "directory"), timeout=PATIENCE)
        self._turn = 0

    def write(self, words: Words, timeout: float) -> dict[str, Any]:
        artifact = create_maif("lab-check")
        artifact.add_text(text(words, "value"))
        self._store.put(text(words, "key"), artifact)
        return {}

    def read(self, words: Words, timeout: float) -> dict[str, Any]:
        self._turn += 1
        load = self._store.load_cached if self._turn % 2 else self._store.load
        try:
            return {"value": load(text(words, "key")).get_content_list()[-1]["text"]}
        except ArtifactNotFound:
            return {"value": None}

    def cas(self, words: Words, timeout: float) -> dict[str, Any]:
        """A text more in the artifact, while nobody else writes, if the last one is `old`."""
        key, old, new = text(words, "key"), words.get("old"), text(words, "new")
        with self._store.edit(key, create=True) as artifact:
            texts = artifact.get_content_list()
            same = (texts[-1]["text"] if texts else None) == old
            if same:
                artifact.add_text(new)
        return {"swapped": same}

    def close(self) -> None:
        self._store.close()


class Locks(Subject):
    """Option: `service`, a directory on the volume or the address of a lock service."""

    name = "locks"
    summary = "locks with fencing tokens"
    ops = ("acquire", "release")

    def __init__(self, options: Mapping[str, str]) -> None:
        self._service = connect(cluster.option(options, "service"))
        self._holds: dict[str, Hold] = {}
        self._lock = threading.Lock()

    def acquire(self, words: Words, timeout: float) -> dict[str, Any]:
        key, wait = text(words, "key"), float(words.get("wait") or 0.0)
        try:
            hold = self._service.lock(key).acquire(min(wait, timeout), purpose="a trial of the lab")
        except LockTimeout as error:
            raise Refused(str(error)) from error
        with self._lock:
            self._holds[key] = hold
        return {"token": hold.token}

    def release(self, words: Words, timeout: float) -> dict[str, Any]:
        """Raises Refused when the lock was lost before: then it was not this one's to release."""
        with self._lock:
            hold = self._holds.pop(text(words, "key"), None)
        if hold is None:
            raise Refused(f"{words.get('key')!r} is not held by this client")
        loss = hold.loss
        hold.release()
        if loss:
            raise Refused(f"it was lost: {loss}")
        return {}

    def close(self) -> None:
        for hold in self._holds.values():
            hold.release()
        self._service.close()


class Agents(Subject):
    """Option: `directory`, on the volume. An element of the set `key` is an agent."""

    name = "agents"
    summary = "registrations of DistributedAgent"
    ops = ("add", "list")

    def __init__(self, options: Mapping[str, str]) -> None:
        self._root = Path(cluster.option(options, "directory"))

    def add(self, words: Words, timeout: float) -> dict[str, Any]:
        with DistributedAgent(
            named(text(words, "value")),
            str(self._root / text(words, "key")),
            expiry=EXPIRY,
            timeout=min(timeout, PATIENCE),
        ) as agent:
            agent.register()
        return {}

    def list(self, words: Words, timeout: float) -> dict[str, Any]:
        with DistributedAgent("lab-reader", str(self._root / text(words, "key")), expiry=EXPIRY) as reader:
            return {"values": [valued(one["agent_id"]) for one in reader.get_active_agents()]}
