"""Signed artifacts: MAIF 2.1 files, read, verified and written. The format is described in docs/maif.md."""

from __future__ import annotations

import os

from .artifact import Artifact, Saved, UnsignedWarning
from .checking import Finding
from .head import Head, read_head
from .lineage import Version
from .signing import Signer, default_identity, vouch
from .trust import TrustSet

__all__ = [
    "Artifact",
    "Finding",
    "Head",
    "Saved",
    "Signer",
    "TrustSet",
    "UnsignedWarning",
    "Version",
    "create_maif",
    "default_identity",
    "load_maif",
    "read_head",
    "vouch",
]


def create_maif(agent_id: str) -> Artifact:
    """A new, empty artifact of this agent (printable ASCII, at most 55 bytes). Raises BadName."""
    return Artifact.create(agent_id)


def load_maif(path: str | os.PathLike[str], *, trust: TrustSet | None = None) -> Artifact:
    """The artifact in a file. Its content is checked before any of it is handed out.

    With `trust` everything is verified now, the signer included.
    Raises: OSError as the system says it (FileNotFoundError, …), NotAnArtifact, UnsupportedVersion, ArtifactCorrupt;
    with `trust` also Unsigned and UntrustedSigner.
    """
    return Artifact.load(path, trust=trust)
