"""Where the entries of a replica are in a pool, and what is in them.

    replica/<store>/stamp                            which replica it is
    replica/<store>/membership                       the number of the newest membership document, and where that is
    replica/<store>/membership/<number>.<random>     the document
    replica/<store>/ballot                           the acceptor's state
    replica/<store>/head/<name>                      a slot: what there is under a name, in a few bytes
    replica/<store>/body/<name>/<digest>.<random>/0  the first PART bytes of a version; then /1, …
    replica/<store>/quarantine/<name>/<random>       a note about a damaged body, which stays where it was

- What others may change at the same moment is changed by `Pool.swap` alone: stamp, membership, ballot, slots.
- A body is written whole before a slot names it, and under a key of its own that is never written again: so whoever
  replaced a slot may remove the body that it named, and removes nobody else's.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from ..artifacts import TrustSet
from ..codec import Encoded
from ..errors import ArtifactCorrupt, BadName, Corrupt, ProtocolError, StorageError
from ..names import check_name
from ..pools import Pool
from .copies import Arrival, Copy
from .tags import Found, Stand, Unsure

PART = 8 << 20
"""Bytes of a version in one entry: so much memory a version takes on its way, however large it is."""
_BODY, _BALLOT, _DOCUMENT = b"laila body", b"laila ballot", b"laila membership"
_VOUCHERS = b"laila vouchers"
_BATCH = 5000
"""Slots that are asked for at once."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What there is under one name. One without anything says that there never was."""

    stand: Stand | None = None
    body: str = ""
    """Where the version is, without its parts; empty when there is none."""
    parts: int = 0
    fear: Unsure | None = None
    """Why it does not count; None when it does."""

    @property
    def found(self) -> Found:
        return self.stand if self.fear is None else self.fear

    def without(self, reason: str) -> Slot:
        """Nothing is there any more that counts."""
        return Slot().feared(reason)

    def feared(self, reason: str) -> Slot:
        """The same, with a new mark."""
        return replace(self, fear=Unsure(reason, secrets.token_hex(8)))

    def record(self) -> Encoded:
        stand = None if self.stand is None else self.stand.words()
        fear = None if self.fear is None else [self.fear.reason, self.fear.mark]
        words = {"stand": stand, "body": self.body, "parts": self.parts, "fear": fear}
        return Encoded(json.dumps(words).encode())

    @classmethod
    def of(cls, record: Encoded | None) -> Self:
        """Raises Corrupt."""
        if record is None:
            return cls()
        words = parsed(record)
        try:
            stand = None if words["stand"] is None else Stand.of_words(words["stand"])
            body, parts, fear = words["body"], words["parts"], words["fear"]
            if fear is not None:
                reason, mark = fear
                if type(reason) is not str or type(mark) is not str:
                    raise ValueError("a mark is a reason and an id")
                fear = Unsure(reason, mark)
        except (KeyError, ValueError, TypeError, ProtocolError) as error:
            raise Corrupt("it is no slot of a replica") from error
        if type(body) is not str or type(parts) is not int or (stand is None) != (not body):
            raise Corrupt("it is no slot of a replica")
        return cls(stand, body, parts, fear)


NOTHING = Slot()


def parsed(record: Encoded) -> dict[str, Any]:
    """The words in a small entry. Raises Corrupt."""
    try:
        words = json.loads(record.head)
    except ValueError:
        words = None
    if type(words) is not dict:
        raise Corrupt("it is no entry of a replica")
    return words


def written(words: dict[str, Any]) -> Encoded:
    return Encoded(json.dumps(words).encode())


def ballot_record(state: bytes) -> Encoded:
    return Encoded(_BALLOT, (state,))


def document_record(document: bytes) -> Encoded:
    return Encoded(_DOCUMENT, (document,))


def vouchers_record(vouchers: bytes) -> Encoded:
    return Encoded(_VOUCHERS, (vouchers,))


def content(record: Encoded) -> bytes:
    """The one piece of bytes in a record."""
    return b"".join(bytes(buffer) for buffer in record.buffers)


class Shelf:
    """The entries of one store's replica in `pool`. Raises StorageError, Corrupt."""

    def __init__(self, pool: Pool, store: str) -> None:
        self._pool = pool
        self._root = f"replica/{check_name('store', store)}/"
        self.stamp, self.membership, self.ballot, self.vouchers = (
            f"{self._root}{what}" for what in ("stamp", "membership", "ballot", "vouchers")
        )
        self._heads, self._bodies, self._notes = (
            f"{self._root}{what}/" for what in ("head", "body", "quarantine")
        )

    @property
    def pool(self) -> Pool:
        """The pool; what other pools have is none of a replica's business."""
        if self._pool.upstream is not None:
            raise StorageError(
                f"{self._pool!r} reads through to {self._pool.upstream!r}, so what it says is not what it has; give a "
                "replica a pool of its own, without upstream",
                reason="EINVAL",
            )
        return self._pool

    # -- slots --

    def head(self, name: str) -> str:
        return self._heads + name

    def names(self) -> list[str]:
        """Of all slots, in no order."""
        found = []
        for key in self.pool.keys():  # noqa: SIM118  # a pool
            if key.startswith(self._heads):
                try:
                    found.append(check_name("artifact", key.removeprefix(self._heads)))
                except BadName:  # nobody's version
                    continue
        return found

    def heads(self, names: Sequence[str]) -> Iterator[tuple[str, Encoded | None, bool]]:
        """Each name with its slot's record, and whether that could be read."""
        for start in range(0, len(names), _BATCH):
            some = names[start : start + _BATCH]
            try:
                records = self.pool.get_many([self.head(name) for name in some])
            except Corrupt:
                for name in some:
                    try:
                        yield name, self.pool.get(self.head(name)), True
                    except Corrupt:
                        yield name, None, False
            else:
                for name, record in zip(some, records, strict=True):
                    yield name, record, True

    # -- bodies --

    def store(self, copy: Copy) -> Slot:
        """Write a version's bytes, durably; the slot that names them is for the caller to swap in."""
        body = f"{self._bodies}{copy.name}/{copy.stand.tag.digest[:16]}.{secrets.token_hex(8)}"
        parts = 0
        try:
            for _, piece in copy.chunks(PART):
                parts += 1
                self.pool.put(f"{body}/{parts - 1}", Encoded(_BODY, (bytes(piece),)))
        except BaseException:
            self._pool.delete_many(_parts(body, parts))
            raise
        return Slot(copy.stand, body, parts)

    def open(self, name: str, slot: Slot, trust: TrustSet) -> Copy | None:
        """The version that a slot names, verified; None when its bytes are not there. Raises ArtifactError."""
        assert slot.stand is not None
        arrival = Arrival(name, slot.stand.size)
        try:
            at = 0
            for key in _parts(slot.body, slot.parts):
                try:
                    record = self.pool.get(key)
                except Corrupt as error:
                    raise ArtifactCorrupt(str(error), path=name) from error
                if record is None:
                    return None
                for piece in record.buffers:
                    arrival.write(at, piece)
                    at += memoryview(piece).nbytes
            copy = arrival.seal(trust)
        finally:
            arrival.abandon()
        if copy.stand != slot.stand:
            copy.close()
            raise ArtifactCorrupt(
                f"what lies there as version {slot.stand.tag} of {name!r} is another one", path=name
            )
        return copy

    def whole(self, slot: Slot) -> bool:
        """Whether all bytes that a slot names are there."""
        return all(self.pool.exists_many(_parts(slot.body, slot.parts)))

    def drop(self, slot: Slot) -> None:
        """Remove the bytes that a slot named, which names them no longer."""
        if slot.body:
            self.pool.delete_many(_parts(slot.body, slot.parts))

    def strays(self) -> dict[str, list[str]]:
        """Bodies that no slot and no note names, and their keys: those of versions on their way, and of programs that
        were killed."""
        bodies: dict[str, list[str]] = {}
        notes = []
        for key in self.pool.keys():  # noqa: SIM118  # a pool
            if key.startswith(self._bodies):
                bodies.setdefault(key.rpartition("/")[0], []).append(key)
            elif key.startswith(self._notes):
                notes.append(key)
        named = set()
        for _, record, readable in self.heads(self.names()):
            if not readable:
                raise Corrupt("a slot cannot be read")
            named.add(Slot.of(record).body)
        for note in self.pool.get_many(notes):
            named.add(str(parsed(note).get("body")) if note is not None else "")
        return {body: keys for body, keys in bodies.items() if body not in named}

    def remove(self, keys: Sequence[str]) -> None:
        self.pool.delete_many(keys)

    # -- quarantine --

    def note(self, name: str, slot: Slot, reason: str) -> str:
        """Keep the bytes that a slot names for people, also when nothing names them any more; the note's key."""
        if not slot.body:
            return ""
        key = f"{self._notes}{name}/{secrets.token_hex(8)}"
        stand = None if slot.stand is None else slot.stand.words()
        self.pool.put(
            key, written({"body": slot.body, "parts": slot.parts, "stand": stand, "reason": reason})
        )
        return key

    def noted(self) -> list[str]:
        """The names of which something is kept aside, sorted."""
        found = {
            key.removeprefix(self._notes).rpartition("/")[0]
            for key in self.pool.keys()  # noqa: SIM118  # a pool
            if key.startswith(self._notes)
        }
        return sorted(found)

    # -- documents --

    def keep_document(self, number: int, document: bytes) -> Encoded:
        """Write a membership document; the entry that names it, to be swapped in."""
        key = f"{self.membership}/{number}.{secrets.token_hex(8)}"
        self.pool.put(key, document_record(document))
        return written({"number": number, "document": key})

    def drop_document(self, pointer: Encoded) -> None:
        self.pool.delete(str(parsed(pointer)["document"]))


def _parts(body: str, parts: int) -> list[str]:
    return [f"{body}/{part}" for part in range(parts)]
