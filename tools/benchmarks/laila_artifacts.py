"""laila.artifacts and laila.SharedArtifactStore, as a user would: one key, and readers that trust that key alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .artifact_contender import CachingContender

AGENT = "bench"
NAME = "cached"


class Laila(CachingContender):
    """Verification is against a trust set, which makes `load_maif` check everything."""

    def __init__(self) -> None:
        from laila import maif
        from laila.artifacts.trust import TrustSet

        self.library: Any = maif
        self.key = Ed25519PrivateKey.generate()
        self.trust = TrustSet(keys=[self.key.public_key()])

    def save(self, path: Path, blocks: Sequence[bytes]) -> None:
        artifact = self.library.create_maif(AGENT)
        for data in blocks:
            artifact.add_binary(data)
        artifact.save(path, key=self.key, durable=False)

    def save_durably(self, path: Path, text: str) -> None:
        artifact = self.library.create_maif(AGENT)
        artifact.add_text(text)
        artifact.save(path, key=self.key)

    def append(self, path: Path, text: str) -> None:
        artifact = self.library.load_maif(path) if path.exists() else self.library.create_maif(AGENT)
        artifact.add_text(text)
        artifact.save(path, key=self.key)

    def verify(self, path: Path) -> None:
        self.library.load_maif(path, trust=self.trust)

    def contents(self, path: Path) -> list[bytes]:
        found = (item["content"] for item in self.library.load_maif(path).get_content_list())
        return [content.encode() if isinstance(content, str) else bytes(content) for content in found]

    def publish(self, shared: Path, cache: Path, text: str) -> None:
        from laila import SharedArtifactStore

        self.store: Any = SharedArtifactStore(str(shared), str(cache))
        self.store.create(NAME, text)

    def load_cached(self) -> object:
        return self.store.load_cached(NAME)

    def cached_text(self) -> str:
        text: str = self.store.load_cached(NAME).get_content_list()[0]["text"]
        return text
