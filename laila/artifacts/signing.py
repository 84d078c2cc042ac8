"""Who signs: an Ed25519 key, the agent that acts with it, and a voucher of the cluster's authority for it.

Without a key of its own a program signs with the identity of the node that it runs beside (`LAILA_STATE_DIR`), or else
with that of its user, which is made at the first signature and kept.
"""

from __future__ import annotations

import functools
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..errors import BadName, BadValue
from ..ids import node_id
from ..transport.identity import Identity
from .layout import DID_PREFIX, MAX_AGENT_ID

VOUCHER_SCHEME = b"laila signer, version 1\0"
"""What an authority signs, followed by the 32 raw bytes of the public key."""


class Signer:
    """A private key and who acts with it. `agent_id` None: whoever the artifact belongs to."""

    __slots__ = ("_key", "agent_id", "public_key", "voucher")

    def __init__(
        self,
        key: Identity | Ed25519PrivateKey,
        *,
        agent_id: str | None = None,
        voucher: bytes | None = None,
    ) -> None:
        if isinstance(key, Identity):
            key = key.key
        if not isinstance(key, Ed25519PrivateKey):
            raise BadValue(
                f"artifacts are signed by an Identity or an Ed25519PrivateKey, not by {type(key).__name__}"
            )
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self.agent_id = None if agent_id is None else check_agent_id(agent_id)
        self.voucher = voucher

    @classmethod
    def of(cls, identity: Identity, secret: str | None = None, *, agent_id: str | None = None) -> Signer:
        """The signer that a node is: with the cluster's secret, its key is vouched for by the cluster's authority."""
        voucher = None if secret is None else vouch(secret, identity.key.public_key().public_bytes_raw())
        return cls(identity, agent_id=agent_id, voucher=voucher)

    @classmethod
    def wrap(cls, key: Signer | Identity | Ed25519PrivateKey | None) -> Signer:
        """Whatever names a key, as a signer; None is the default identity of this process."""
        if isinstance(key, Signer):
            return key
        return cls(default_identity() if key is None else key)

    def sign(self, message: Any) -> bytes:
        """64 bytes. `message` is anything with bytes in it; the interpreter is free for other threads meanwhile."""
        return self._key.sign(message)

    @property
    def node_id(self) -> str:
        return node_id(self.public_key)

    def __repr__(self) -> str:
        return f"Signer({self.public_key.hex()[:16]}…, {'vouched for' if self.voucher else 'no voucher'})"


def check_agent_id(agent_id: object) -> str:
    """The id itself. Raises BadName for what does not fit the file: printable ASCII, 1 to 55 bytes."""
    if not isinstance(agent_id, str) or not agent_id or not agent_id.isascii() or not agent_id.isprintable():
        raise BadName(f"{agent_id!r} cannot be an agent's id: give printable ASCII text")
    if len(agent_id) > MAX_AGENT_ID:
        raise BadName(f"{agent_id[:80]!r} cannot be an agent's id: at most {MAX_AGENT_ID} bytes fit the file")
    return agent_id


def vouch(secret: str, public_key: bytes) -> bytes:
    """The voucher, 64 bytes, of the authority that everybody who knows `secret` derives."""
    from ..transport.tls import authority_key  # loads TLS, which few signers need

    return authority_key(secret).sign(VOUCHER_SCHEME + public_key)


def default_identity() -> Identity:
    """The identity of this node, or of this user. Raises: StorageError, BadConfig."""
    return _identity_at(str(_default_directory()))


@functools.lru_cache(maxsize=8)
def _identity_at(directory: str) -> Identity:
    return Identity.load_or_create(directory)


def _default_directory() -> Path:
    if state := os.environ.get("LAILA_STATE_DIR"):
        return Path(state)
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "laila"


_REMEMBERED_UP_TO = 64 << 10
"""Bytes of a message whose verification is remembered: hashing it again costs less than a signature does."""
_MOST_REMEMBERED = 1 << 16
_valid: set[bytes] = set()
"""SHA-256 of key, signature and message of what was found valid: who loads a growing artifact again and again would
verify its old blocks each time. Only successes are kept, so nothing becomes valid by being here."""


def holds(public_key: bytes, signature: bytes, message: Any) -> bool:
    """Whether the signature is this key's for this message."""
    mark = b""
    if len(message) <= _REMEMBERED_UP_TO:
        digest = sha256(public_key + signature)  # 32 and 64 bytes
        digest.update(message)
        mark = digest.digest()
        if mark in _valid:
            return True
    try:
        _public(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    if mark:
        if len(_valid) >= _MOST_REMEMBERED:
            _valid.clear()
        _valid.add(mark)
    return True


@functools.lru_cache(maxsize=64)
def _public(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def did_of(agent_id: str) -> str:
    return DID_PREFIX + agent_id
