"""No replicas at all: the file beside which everything else stands, written durably by this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from .replica_contender import Place, ReplicaContender


class Bare(ReplicaContender):
    """Temporary file, fsync, rename, fsync of the directory."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.folder = place.own(0)

    def serve(self, number: int) -> Sequence[str]:
        raise NotImplementedError("there is nothing to serve")

    def connect(self) -> None:
        self.descriptor = os.open(self.folder, os.O_RDONLY)

    def close(self) -> None:
        os.close(self.descriptor)

    def put(self, name: str, value: bytes) -> None:
        path = self.folder / name
        temporary = Path(f"{path}.{threading.get_ident()}")
        with temporary.open("wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        os.fsync(self.descriptor)

    def get(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()
