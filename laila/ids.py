"""Ids: random for entries, deterministic for nicknames, derived from the key for nodes.

The nickname scheme is that of the public LAILA library, so that ids agree with data that exists already.
"""

from __future__ import annotations

import os
import uuid

NICKNAME_NAMESPACE = uuid.UUID("6c8dcd4c-d490-58bc-81a7-6afbe8d17594")
"""uuid5(NAMESPACE_DNS, "laila"), as a constant because computing it would import hashlib."""


def new_id() -> str:
    """A random id (UUID version 4, 36 characters)."""
    return str(uuid.UUID(bytes=os.urandom(16), version=4))


def nickname_id(nickname: str) -> str:
    """The id that a nickname stands for, the same in every process: `nickname_id("remote-entry")[:8] == "f69bf63a"`."""
    return str(uuid.uuid5(NICKNAME_NAMESPACE, nickname))


def node_id(public_key: bytes) -> str:
    """The id of the node that holds the Ed25519 key with these 32 raw public bytes (UUID version 8)."""
    import hashlib  # only nodes need it; entries do not pay for it

    digest = bytearray(hashlib.sha256(public_key).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(digest)))
