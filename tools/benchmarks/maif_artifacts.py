"""The public MAIF library, from the checkout that `--maif` names, by its simple interface (`maif_api.MAIF`).

It cannot add to what it loaded (saving would drop it), so `append` reads the texts, adds all of them and the new
one to a fresh artifact, and saves that, as its users must. It never syncs; durable is a save followed by the
two fsyncs that a user would add. Its verification looks at block signatures, content hashes, the chain and the
Merkle root, and at nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .artifact_contender import ArtifactContender
from .bare_artifacts import sync

AGENT = "bench"


class PublicMaif(ArtifactContender):
    """Signs each file with a fresh key, which it makes itself."""

    def __init__(self) -> None:
        sys.path.insert(0, os.environ["BENCH_MAIF"])
        import maif_api

        self.library: Any = maif_api

    def save(self, path: Path, blocks: Sequence[bytes]) -> None:
        artifact = self.library.MAIF(AGENT)
        for data in blocks:
            artifact.add_binary(data)
        artifact.save(str(path))

    def save_durably(self, path: Path, text: str) -> None:
        self._save_texts(path, [text])

    def append(self, path: Path, text: str) -> None:
        before = self.library.load_maif(str(path)).texts if path.exists() else []
        self._save_texts(path, [*before, text])

    def verify(self, path: Path) -> None:
        if not self.library.load_maif(str(path)).verify():
            raise ValueError(f"{path} does not verify")

    def contents(self, path: Path) -> list[bytes]:
        from maif import MAIFDecoder

        return [block.data for block in MAIFDecoder(str(path)).get_blocks()]

    def _save_texts(self, path: Path, texts: list[str]) -> None:
        artifact = self.library.MAIF(AGENT)
        for text in texts:
            artifact.add_text(text)
        artifact.save(str(path))
        sync(path)
        sync(path.parent)
