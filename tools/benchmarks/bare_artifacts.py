"""The floor: the bytes, hashes and signatures that a signed artifact needs, one after the other, and nothing else.

As many signatures as the format asks for: two for each block (itself and its provenance entry) and three for the file
(first and last provenance entry, header). As many bytes too, of which those that are not data are zeros. It is
no format: nobody could read provenance or metadata from it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .artifact_contender import ArtifactContender

HEAD = bytes(1980)  # file header, first and last provenance entry, security, footer
BLOCK = bytes(1036 - 8 - 128)  # block header, provenance entry, index entry, but for what `_block` puts there
ENTRY = bytes(64)  # what a provenance entry's signature covers: a digest in hex


class Bare(ArtifactContender):
    """Blocks of: data size, two signatures, filling, data; then the head; then a digest of it all."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.public = self.key.public_key()

    def save(self, path: Path, blocks: Sequence[bytes]) -> None:
        with path.open("wb", buffering=0) as file:
            os.writev(file.fileno(), self._file([part for data in blocks for part in self._block(data)]))

    def save_durably(self, path: Path, text: str) -> None:
        publish(path, self._file(self._block(text.encode())))

    def append(self, path: Path, text: str) -> None:
        before = path.read_bytes() if path.exists() else b""
        body = before[: len(before) - len(HEAD) - 32] if before else b""
        publish(path, self._file([body, *self._block(text.encode())]))

    def verify(self, path: Path) -> None:
        data = path.read_bytes()
        if hashlib.sha256(memoryview(data)[:-32]).digest() != data[-32:]:
            raise ValueError("the file's digest")
        for signatures, block in self._blocks(data):
            hashlib.sha256(block).digest()
            self.public.verify(signatures[:64], block)
            self.public.verify(signatures[64:], ENTRY)
        for place in range(3):
            self.public.verify(data[len(data) - 32 - 64 * (place + 1) :][:64], ENTRY)

    def contents(self, path: Path) -> list[bytes]:
        return [bytes(block) for _, block in self._blocks(path.read_bytes())]

    def _block(self, data: bytes) -> list[bytes]:
        hashlib.sha256(data).digest()
        return [len(data).to_bytes(8, "big"), self.key.sign(data), self.key.sign(ENTRY), BLOCK, data]

    def _file(self, parts: list[bytes]) -> list[bytes]:
        """The parts, the head with its three signatures, the digest; few enough for one writev."""
        if len(parts) > 100:
            parts = [b"".join(parts)]
        parts = [*parts, HEAD[: -3 * 64], *(self.key.sign(ENTRY) for _ in range(3))]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        return [*parts, digest.digest()]

    def _blocks(self, data: bytes) -> Iterator[tuple[bytes, memoryview]]:
        view, at = memoryview(data), 0
        while at < len(data) - len(HEAD) - 32:
            size = int.from_bytes(view[at : at + 8], "big")
            begin = at + 8 + 128 + len(BLOCK)
            yield bytes(view[at + 8 : at + 8 + 128]), view[begin : begin + size]
            at = begin + size


def publish(path: Path, parts: list[bytes]) -> None:
    """Write, fsync, rename, fsync of the directory."""
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.writev(descriptor, parts)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """What the kernel has of a file or directory, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
