"""The Merkle root of a file: pairwise SHA-256 over the content hashes, the last one doubled where their number is odd.

A tree grows by a leaf at a time and tells its root at any moment in as many hashes as it is high, because a file has a
root for each of its versions.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256


class MerkleTree:
    """Leaves so far, and the nodes above them whose leaves are all there."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.add(leaf)

    def add(self, leaf: bytes) -> None:
        """Append a content hash, 32 bytes."""
        node = leaf
        for level in self._levels:
            level.append(node)
            if len(level) % 2:
                return
            node = sha256(level[-2] + node).digest()
        self._levels.append([node])

    @property
    def root(self) -> bytes:
        """32 bytes; zeros for no leaves."""
        count, height = len(self._levels[0]), 0
        if not count:
            return bytes(32)
        last = self._levels[0][-1]
        while count > 1:
            left = last if count % 2 else self._levels[height][count - 2]
            last = sha256(left + last).digest()
            count, height = (count + 1) // 2, height + 1
        return last
