"""A replicated store, through a program that is a peer of every node: registers, sets, and what a replica holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laila.artifacts import create_maif
from laila.errors import ArtifactNotFound
from laila.lab.subjects import cluster
from laila.lab.subjects.base import Subject, Words, named, text, valued

JOIN = 40.0


class Replicas(Subject):
    """Options: `nodes` (JSON: name to host:port), `replicas` (places, by commas), `patience` (seconds), `directory` (of
    the node's own replica).
    """

    name = "replicas"
    summary = "a ReplicatedStore over all nodes"
    ops = ("read", "write", "add", "list", "digest")

    def __init__(self, options: Mapping[str, str]) -> None:
        from laila.replication.store import ReplicatedStore

        nodes, places = cluster.table(options, "nodes"), cluster.option(options, "replicas").split(",")
        self._directory = Path(cluster.option(options, "directory"))
        self._policy = cluster.join(nodes, len(nodes) // 2 + 1, JOIN)
        try:
            patience = float(options.get("patience", "5"))
            self._store = ReplicatedStore(places, timeout=patience, policy=self._policy)
        except BaseException:
            self._policy.close()
            raise

    def write(self, words: Words, timeout: float) -> dict[str, Any]:
        self._save(text(words, "key"), text(words, "value"))
        return {}

    def read(self, words: Words, timeout: float) -> dict[str, Any]:
        try:
            return {"value": self._store.load(text(words, "key")).get_content_list()[0]["text"]}
        except ArtifactNotFound:
            return {"value": None}

    def add(self, words: Words, timeout: float) -> dict[str, Any]:
        key, value = text(words, "key"), text(words, "value")
        self._save(f"{key}--{named(value)}", value)
        return {}

    def list(self, words: Words, timeout: float) -> dict[str, Any]:
        prefix = f"{text(words, 'key')}--"
        names = [name.removeprefix(prefix) for name in self._store.names() if name.startswith(prefix)]
        found = [valued(name) for name in names]
        return {"values": found}

    def digest(self, words: Words, timeout: float) -> dict[str, Any]:
        """SHA-256 of every file in the node's own replica, which nobody is asked about."""
        found = {}
        for path in sorted(self._directory.glob("*.maif")):
            try:
                found[path.stem] = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
            except FileNotFoundError:
                continue  # it was replaced or forgotten just now
        return {"digests": found}

    def close(self) -> None:
        self._store.close()
        self._policy.close()

    def _save(self, name: str, value: str) -> None:
        artifact = create_maif("lab-check")
        artifact.add_text(value)
        self._store.save(name, artifact)
