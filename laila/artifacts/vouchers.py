"""Vouchers that were made anew: what was signed under one secret of a cluster stays believed under the next.

A voucher is the authority's signature for a signer's public key, and travels in what was signed. With another secret
the cluster has another authority; what is there cannot be signed again, as its writers may be gone. So whoever knows
the new secret vouches once more for the keys that are believed under the old one, and the new vouchers lie beside what
was signed. Each proves itself: a book of them may come from anybody, and the old secret can add nobody any more.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable

KEY = 32
RECORD = KEY + 64
"""Bytes of a public key and its voucher."""
MOST = 1 << 16
"""Vouchers in one book; each was made by somebody who knows the secret."""
Pair = tuple[bytes, bytes]
"""A public key, 32 bytes, and a voucher for it, 64 bytes."""


class Vouchers:
    """A book of vouchers by public key. Safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pairs: dict[bytes, tuple[bytes, ...]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, pair: Pair) -> bool:
        return pair[1] in self._pairs.get(pair[0], ())

    def add(self, pairs: Iterable[Pair]) -> None:
        """Take these, as far as there is room."""
        for key, voucher in pairs:
            with self._lock:
                known = self._pairs.get(key, ())
                if voucher not in known and self._count < MOST:
                    self._pairs[key] = (*known, voucher)
                    self._count += 1

    def of(self, key: bytes) -> tuple[bytes, ...]:
        """The vouchers for a key."""
        return self._pairs.get(key, ())

    def pairs(self) -> list[Pair]:
        """All, sorted."""
        with self._lock:
            return sorted((key, voucher) for key, known in self._pairs.items() for voucher in known)


def packed(pairs: Iterable[Pair]) -> bytes:
    """One after the other, 96 bytes each."""
    return b"".join(key + voucher for key, voucher in pairs)


def digest(pairs: Iterable[Pair]) -> str:
    """What tells one book from another, 32 hex digits; empty for an empty one."""
    data = packed(sorted(pairs))
    return hashlib.sha256(data).hexdigest()[:32] if data else ""


def unpacked(data: bytes) -> list[Pair]:
    """What `packed` gave. What is cut off at the end is left out: who reads a book checks each voucher anyway."""
    whole = len(data) - len(data) % RECORD
    return [(data[at : at + KEY], data[at + KEY : at + RECORD]) for at in range(0, whole, RECORD)]
