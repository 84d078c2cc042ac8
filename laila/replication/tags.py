"""What orders the versions of a name, and what a replica has of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

from ..artifacts import Artifact, Head
from ..errors import ProtocolError

_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MOST = 1 << 63


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """The order of versions: by sequence number, then writer, then bytes. So no two files are one version."""

    sequence: int
    writer: str
    """The public key that signed it, 64 hex digits."""
    digest: str
    """SHA-256 of all bytes before the footer, 64 hex digits."""

    def __str__(self) -> str:
        return f"{self.sequence} by {self.writer[:8]} ({self.digest[:8]})"


@dataclass(frozen=True, slots=True)
class Stand:
    """What there is under a name: a version, or with `gone` the tombstone that says that it was forgotten."""

    tag: Tag
    root: str
    """The Merkle root, 64 hex digits."""
    gone: bool
    size: int
    """Bytes of the file."""
    at: float
    """Seconds of the epoch by its writer's clock: for people, nothing is decided by it."""

    @property
    def sequence(self) -> int:
        return self.tag.sequence

    def words(self) -> list[Any]:
        """As plain values, for the wire."""
        tag = self.tag
        return [tag.sequence, tag.writer, tag.digest, self.root, self.gone, self.size, self.at]

    @classmethod
    def of_words(cls, words: Any) -> Self:
        """Raises ProtocolError for what cannot be one."""
        if type(words) is not list or [type(word) for word in words] != [
            int,
            str,
            str,
            str,
            bool,
            int,
            float,
        ]:
            raise ProtocolError("the other side said what it has in a way that cannot be read")
        sequence, writer, digest, root, gone, size, at = words
        hashes = all(_HASH.fullmatch(word) for word in (writer, digest, root))
        if not hashes or not 0 <= sequence < _MOST or not 0 <= size < _MOST or at != at:
            raise ProtocolError("the other side says that it has what cannot be")
        return cls(Tag(sequence, writer, digest), root, gone, size, at)

    @classmethod
    def of(cls, found: Artifact | Head, size: int, at: float) -> Self:
        """Of a signed artifact, or of a file's head."""
        version = found.version
        gone = version is not None and version.gone
        at = version.at if version is not None else at
        return cls(Tag(found.sequence, found.signer or "", found.digest), found.root, gone, size, at)


@dataclass(frozen=True, slots=True)
class Unsure:
    """A replica had something under a name and cannot say what: damaged, or put back. It counts for nothing."""

    reason: str
    mark: str = ""
    """The random id of the mark at the replica that says so, for `settle`; empty where nothing is marked."""


Found = Stand | Unsure | None
"""None: it never had it."""
