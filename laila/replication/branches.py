"""The digest tree of a replica: what it has, in parts that two replicas compare, so that equal parts cost one digest.

A name lies in the tree by its SHA-256. A part is all names whose hash begins with a prefix; its digest covers their
hashes and tags. A part of more than `SMALL_PART` names has 256 branches, by the next byte; a smaller one is a leaf.
Which parts there are follows from the names alone, not from how they came: so equal maps have equal digests at every
prefix, and different maps different ones.

- Unsure counts as an entry that differs from everything, also from another replica's Unsure: so comparison finds it.
- Digests are computed when they are asked for, and only of parts in which something changed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from bisect import bisect_left
from collections.abc import Iterable

from ..errors import BadValue
from .replica import Branch
from .tags import Found, Stand

SMALL_PART = 32
"""Names up to which a part is a leaf, which comes with its entries."""
DIGEST = 16
NOTHING = bytes(DIGEST)
"""The digest of a part without names."""
_PREFIX = re.compile("(?:[0-9a-f]{2}){0,32}", re.ASCII)
_Entry = tuple[bytes, str, Found]


class Tree:
    """The digest tree over a map of names. Not safe under threads."""

    def __init__(self, entries: Iterable[tuple[str, Found]] = ()) -> None:
        self._root = _Part()
        self._salt = secrets.token_bytes(DIGEST)
        for name, found in entries:
            self.set(name, found)

    def __len__(self) -> int:
        return self._root.count

    def set(self, name: str, found: Found) -> None:
        """What there is under a name from now on; None removes it."""
        _set(self._root, 0, (hash_of(name), name, found))

    def branch(self, prefix: str) -> Branch:
        """The part with this prefix. Raises BadValue for what is none: an even number of hex digits, at most 64."""
        key = _key(prefix)
        part: _Part | None = self._root
        for depth, byte in enumerate(key):
            assert part is not None
            if part.entries is not None:
                part = _Part([entry for entry in part.entries if entry[0].startswith(key[depth:], depth)])
                break
            part = part.branches.get(byte)
            if part is None:
                return Branch(prefix, NOTHING, 0)
        assert part is not None
        digest = part.digest(self._salt)
        if part.entries is not None:
            return Branch(
                prefix, digest, part.count, entries=tuple((name, found) for _, name, found in part.entries)
            )
        digests = [
            part.branches[byte].digest(self._salt) if byte in part.branches else NOTHING
            for byte in range(256)
        ]
        return Branch(prefix, digest, part.count, branches=b"".join(digests))

    def entries(self) -> list[tuple[str, Found]]:
        """All of them, in the order of the tree."""
        return [(name, found) for _, name, found in _entries(self._root)]


def branches_of(entries: Iterable[tuple[str, Found]], prefixes: Iterable[str]) -> list[Branch]:
    """The parts with these prefixes, for who keeps no tree. Raises BadValue."""
    tree = Tree(entries)
    return [tree.branch(prefix) for prefix in prefixes]


def hash_of(name: str) -> bytes:
    """Where a name lies: its hex digits begin with the prefixes of all its parts."""
    return hashlib.sha256(name.encode()).digest()


class _Part:
    """`entries` of a leaf, sorted by hash; None in a part with `branches`."""

    __slots__ = ("_digest", "branches", "count", "entries")

    def __init__(self, entries: list[_Entry] | None = None) -> None:
        self.entries: list[_Entry] | None = entries if entries is not None else []
        self.branches: dict[int, _Part] = {}
        self.count = len(self.entries or ())
        self._digest: bytes | None = None

    def digest(self, salt: bytes) -> bytes:
        if self._digest is None:
            self._digest = self._digest_now(salt)
        return self._digest

    def _digest_now(self, salt: bytes) -> bytes:
        if not self.count:
            return NOTHING
        if self.entries is not None:
            pieces = [b"leaf"]
            for key, _, found in self.entries:
                pieces += (key, _bytes_of(found, salt))
        else:
            pieces = [b"part"]
            for byte in sorted(self.branches):
                pieces += (bytes([byte]), self.branches[byte].digest(salt))
        return hashlib.sha256(b"".join(pieces)).digest()[:DIGEST]

    def changed(self) -> None:
        self._digest = None


def _set(part: _Part, depth: int, entry: _Entry) -> int:
    """By how many names the part grew."""
    if part.entries is None:
        byte = entry[0][depth]
        below = part.branches.get(byte)
        if below is None:
            if entry[2] is None:
                return 0
            below = part.branches[byte] = _Part()
        grown = _set(below, depth + 1, entry)
        if not below.count:
            del part.branches[byte]
        part.count += grown
        if part.count <= SMALL_PART:
            part.entries, part.branches = _entries(part), {}
    else:
        grown = _set_in_leaf(part.entries, entry)
        part.count += grown
        if part.count > SMALL_PART:
            _split(part, depth)
    part.changed()
    return grown


def _set_in_leaf(entries: list[_Entry], entry: _Entry) -> int:
    at = bisect_left(entries, entry[0], key=lambda one: one[0])
    there = at < len(entries) and entries[at][0] == entry[0]
    if entry[2] is None:
        del entries[at : at + there]
        return -int(there)
    entries[at : at + there] = [entry]
    return int(not there)


def _split(part: _Part, depth: int) -> None:
    assert part.entries is not None
    entries, part.entries = part.entries, None
    for entry in entries:
        below = part.branches.setdefault(entry[0][depth], _Part())
        _set(below, depth + 1, entry)


def _entries(part: _Part) -> list[_Entry]:
    if part.entries is not None:
        return list(part.entries)
    return [entry for byte in sorted(part.branches) for entry in _entries(part.branches[byte])]


def _bytes_of(found: Found, salt: bytes) -> bytes:
    if isinstance(found, Stand):
        tag = found.tag
        return tag.sequence.to_bytes(8, "big") + bytes.fromhex(tag.writer + tag.digest)
    return b"unsure" + salt


def _key(prefix: str) -> bytes:
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
        raise BadValue(
            f"{str(prefix)[:80]!r} is no prefix of the digest tree: give pairs of hex digits, at most 32"
        )
    return bytes.fromhex(prefix)
