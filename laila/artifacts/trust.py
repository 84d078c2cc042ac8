"""Whom a reader believes: pinned keys, keys of known peers, and keys that the cluster's authority vouches for.

The key that a file brings along says who wrote it, never whether to believe it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ..errors import BadValue
from ..ids import node_id
from ..secret import check_secret
from ..transport.identity import Identity
from .signing import VOUCHER_SCHEME, Signer, default_identity, holds

Key = str | bytes | Ed25519PublicKey | Identity | Signer
NodeIds = Container[str] | Callable[[], Container[str]]


class TrustSet:
    """Keys whose signatures count.

    `keys`: pinned (64 hex digits, 32 raw bytes, a public key, an Identity). `node_ids`: ids of known nodes, which are
    hashes of their keys: a set, the live mapping `policy.peers`, or a function. `secret`: the cluster's, so that every
    key with its authority's voucher counts. `authority`: the same from the authority's 32-byte public key alone.
    Raises: BadValue for what is no key, WeakSecret.
    """

    def __init__(
        self,
        keys: Iterable[Key] = (),
        *,
        node_ids: NodeIds = (),
        secret: str | None = None,
        authority: bytes | None = None,
    ) -> None:
        if isinstance(keys, str | bytes):
            raise BadValue("a trust set takes a list of keys; put the one key in brackets")
        self._keys = frozenset(raw_key(key) for key in keys)
        self._node_ids = node_ids
        if isinstance(node_ids, str | bytes):
            raise BadValue("node_ids is a collection of ids; put the one id in brackets")
        if authority is not None and (type(authority) is not bytes or len(authority) != 32):
            raise BadValue("the authority is its public key, 32 bytes")
        self._authority = authority if secret is None else _authority_of(check_secret(secret))
        self._vouched = functools.lru_cache(maxsize=1024)(self._vouches)

    @classmethod
    def default(cls, identity: Identity | None = None, secret: str | None = None) -> TrustSet:
        """This process' own key and, where the cluster's secret is known, everybody whom it vouches for.

        The secret is the one given, or the one in the file that LAILA_SECRET_FILE names.
        """
        return cls([identity or default_identity()], secret=secret or known_secret())

    def trusts(self, public_key: bytes, voucher: bytes | None = None) -> str | None:
        """Why this key is believed, in words; None when it is not."""
        if public_key in self._keys:
            return "a pinned key"
        ids = self._node_ids() if callable(self._node_ids) else self._node_ids
        if (node := node_id(public_key)) in ids:
            return f"the key of peer {node}"
        if voucher is not None and self._authority is not None and self._vouched(public_key, voucher):
            return "a key that the cluster's authority vouches for"
        return None

    def with_keys(self, *keys: Key) -> TrustSet:
        """The same and these keys."""
        return TrustSet([*self._keys, *keys], node_ids=self._node_ids, authority=self._authority)

    def _vouches(self, public_key: bytes, voucher: bytes) -> bool:
        assert self._authority is not None
        return holds(self._authority, voucher, VOUCHER_SCHEME + public_key)

    def __repr__(self) -> str:
        parts = [f"{len(self._keys)} pinned", "the cluster's authority" if self._authority else ""]
        return f"TrustSet({', '.join(part for part in parts if part)})"


def raw_key(key: Any) -> bytes:
    """32 raw bytes of whatever names a public key. Raises BadValue."""
    if isinstance(key, Identity):
        return key.key.public_key().public_bytes_raw()
    if isinstance(key, Signer):
        return key.public_key
    if isinstance(key, Ed25519PublicKey):
        return key.public_bytes_raw()
    if isinstance(key, str):
        try:
            key = bytes.fromhex(key)
        except ValueError:
            raise BadValue(f"{key[:80]!r} is no public key: give 64 hex digits") from None
    if isinstance(key, bytes) and len(key) == 32:
        return key
    raise BadValue("a public key is 64 hex digits, 32 bytes, an Ed25519PublicKey or an Identity")


def known_secret() -> str | None:
    """The cluster's secret, from the file that LAILA_SECRET_FILE names; None when there is none to be read."""
    path = os.environ.get("LAILA_SECRET_FILE")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def _authority_of(secret: str) -> bytes:
    from ..transport.tls import authority_key  # loads TLS

    return authority_key(secret).public_key().public_bytes_raw()
