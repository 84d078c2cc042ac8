"""Whom a reader believes: pinned keys, keys of known peers, and keys that the cluster's authority vouches for.

The key that a file brings along says who wrote it, never whether to believe it.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ..errors import BadValue
from ..ids import node_id
from ..secret import check_secret
from ..transport.identity import Identity
from .signing import VOUCHER_SCHEME, Signer, default_identity, holds
from .vouchers import Pair, Vouchers

Key = str | bytes | Ed25519PublicKey | Identity | Signer
NodeIds = Container[str] | Callable[[], Container[str]]


class TrustSet:
    """Keys whose signatures count.

    `keys`: pinned (64 hex digits, 32 raw bytes, a public key, an Identity). `node_ids`: ids of known nodes, which are
    hashes of their keys: a set, the live mapping `policy.peers`, or a function. `secret`: the cluster's, so that every
    key with its authority's voucher counts. `authority`: the same from the authority's 32-byte public key alone.
    `also_accept`: further secrets of the cluster, while it changes from one to another.
    Raises: BadValue for what is no key, WeakSecret.
    """

    def __init__(
        self,
        keys: Iterable[Key] = (),
        *,
        node_ids: NodeIds = (),
        secret: str | None = None,
        authority: bytes | None = None,
        also_accept: Sequence[str] = (),
    ) -> None:
        if isinstance(keys, str | bytes):
            raise BadValue("a trust set takes a list of keys; put the one key in brackets")
        self._keys = frozenset(raw_key(key) for key in keys)
        self._node_ids = node_ids
        if isinstance(node_ids, str | bytes):
            raise BadValue("node_ids is a collection of ids; put the one id in brackets")
        if authority is not None and (type(authority) is not bytes or len(authority) != 32):
            raise BadValue("the authority is its public key, 32 bytes")
        own = authority if secret is None else _authority_of(check_secret(secret))
        others = [_authority_of(check_secret(other)) for other in also_accept]
        self._authorities = tuple(dict.fromkeys([*([] if own is None else [own]), *others]))
        self._renewed = Vouchers()
        self._source: Callable[[], Iterable[Pair]] | None = None
        self.vouches = functools.lru_cache(maxsize=4096)(self._vouches)

    @classmethod
    def default(cls, identity: Identity | None = None, secret: str | None = None) -> TrustSet:
        """This process' own key and, where the cluster's secret is known, everybody whom it vouches for.

        The secret is the one given, or the one in the file that LAILA_SECRET_FILE names; further ones are in the files
        that LAILA_ALSO_ACCEPT names.
        """
        return cls(
            [identity or default_identity()], secret=secret or known_secret(), also_accept=further_secrets()
        )

    def trusts(self, public_key: bytes, voucher: bytes | None = None) -> str | None:
        """Why this key is believed, in words; None when it is not."""
        if public_key in self._keys:
            return "a pinned key"
        ids = self._node_ids() if callable(self._node_ids) else self._node_ids
        if (node := node_id(public_key)) in ids:
            return f"the key of peer {node}"
        if voucher is not None and self.vouches(public_key, voucher):
            return "a key that the cluster's authority vouches for"
        if self._source is not None and not self._renewed.of(public_key):
            self.learn(self._source())
        if any(self.vouches(public_key, renewed) for renewed in self._renewed.of(public_key)):
            return "a key that the cluster's authority vouches for anew"
        return None

    def learn(self, vouchers: Iterable[Pair]) -> None:
        """Take vouchers that were made anew (vouchers.py); those that no authority of this set made are left out. They
        may come from anybody.
        """
        known = self._renewed
        known.add(pair for pair in vouchers if pair not in known and self.vouches(*pair))

    @property
    def learned(self) -> Vouchers:
        """The vouchers that `learn` took. They become more, never fewer."""
        return self._renewed

    def with_keys(self, *keys: Key) -> TrustSet:
        """The same and these keys."""
        more = TrustSet([*self._keys, *keys], node_ids=self._node_ids)
        more._authorities, more._renewed, more._source = self._authorities, self._renewed, self._source
        return more

    def reading(self, vouchers: Callable[[], Iterable[Pair]]) -> TrustSet:
        """The same, which asks this for vouchers made anew before it calls somebody a stranger."""
        more = copy.copy(self)
        more._source = vouchers
        return more

    def _vouches(self, public_key: bytes, voucher: bytes) -> bool:
        """Whether an authority of this set made this voucher for this key."""
        message = VOUCHER_SCHEME + public_key
        return any(holds(authority, voucher, message) for authority in self._authorities)

    def __repr__(self) -> str:
        parts = [f"{len(self._keys)} pinned", "the cluster's authority" if self._authorities else ""]
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
    return _secret_in(path) if path else None


def further_secrets() -> list[str]:
    """The secrets that are accepted beside it while it changes, from the files that LAILA_ALSO_ACCEPT names."""
    paths = os.environ.get("LAILA_ALSO_ACCEPT", "").split(",")
    found = (_secret_in(path.strip()) for path in paths if path.strip())
    return [secret for secret in found if secret is not None]


def _secret_in(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def _authority_of(secret: str) -> bytes:
    from ..transport.tls import authority_key  # loads TLS

    return authority_key(secret).public_key().public_bytes_raw()
