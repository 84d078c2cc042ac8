"""The membership of a store: a signed document that says which replicas it has, and the one that holds now.

Each is a version of the artifact `laila-membership`; its sequence is the membership's number. Number 1 is made when
the store is first opened (opening.py), each further one by a change (changes.py), and which document has a number is
decided by a majority (agreement.py): no two have one number. Whoever has learned a newer one never goes back.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..artifacts import Artifact, Signer, TrustSet, create_maif
from ..artifacts.canonical import load_json
from ..errors import ArtifactCorrupt, ArtifactError, BadValue, LailaError, MixedReplicas, UntrustedSigner
from ..locks.holder import host_name, plain
from .replica import Stamp
from .views import Member, Quorums, View

NAME = "laila-membership"
"""The artifact's name; no name of the store's own."""
MOST_MEMBERS = 99
MOST_BYTES = 1 << 20
_MOST_WORDS = 4096
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_KEYS = {
    "store",
    "number",
    "members",
    "next",
    "write_quorum",
    "read_quorum",
    "allow_stale_reads",
    "by",
    "change",
}


@dataclass(frozen=True, slots=True)
class Document:
    """A membership as it was signed. `by` is who made it and `change` what changed, in words for people."""

    view: View
    by: str
    change: str
    root: str
    data: bytes

    @classmethod
    def read(cls, data: bytes, trust: TrustSet) -> Self:
        """Raises ArtifactError for what nobody trusted signed, ArtifactCorrupt also for what is no membership."""
        if len(data) > MOST_BYTES:
            raise _corrupt(f"it has {len(data)} bytes; a membership has at most {MOST_BYTES}")
        artifact = Artifact.from_bytes(data, trust=trust, path=NAME)
        version = artifact.version
        items = artifact.get_content_list()
        if version is None or version.name != NAME or version.gone or len(items) != 1:
            raise _corrupt(f"it is no version of {NAME!r} with one block")
        try:
            words = load_json(str(items[0]["text"]).encode())
            view = _view(words)
        except (LailaError, ValueError, TypeError, KeyError) as error:
            raise _corrupt(f"what it says cannot be: {error}") from error
        if view.number != version.sequence:
            raise _corrupt(f"it is version {version.sequence} and says that it is number {view.number}")
        return cls(view, words["by"], words["change"], artifact.root, bytes(data))


def encode(
    view: View, signer: Signer, trust: TrustSet, *, by: str = "", change: str = "", parent: str = ""
) -> bytes:
    """The signed document of a view. `parent` is the Merkle root of the one before.

    Raises: UntrustedSigner when `trust` does not believe `signer`, BadValue, BadConfig for a view that cannot be one.
    """
    if trust.trusts(signer.public_key, signer.voucher) is None:
        raise UntrustedSigner(
            f"this program signs with key {signer.public_key.hex()[:16]}…, which its own trust set does not hold, so "
            "it cannot say who the replicas are: add the key to the trust set, or give `key`",
            path=NAME,
            signer=signer.public_key.hex(),
        )
    words = {
        "store": view.store,
        "number": view.number,
        "members": _listed(view.members),
        "next": _listed(view.next),
        "write_quorum": view.quorums.write,
        "read_quorum": view.quorums.read,
        "allow_stale_reads": view.quorums.stale,
        "by": by or here(signer),
        "change": change,
    }
    try:
        _view(words)
    except LailaError:
        raise
    except ValueError as error:
        raise BadValue(f"this cannot be the membership of a store: {error}") from error
    artifact = create_maif(NAME)
    artifact.add_json(words, title=change or None)
    artifact.name_as(NAME, sequence=view.number, parent=parent)
    return artifact.to_bytes(key=signer)


def decode(data: bytes, trust: TrustSet) -> View:
    """The view that a document is about. Raises ArtifactError."""
    return Document.read(data, trust).view


def require_same_store(view: View, stamp: Stamp, known: bytes | None, trust: TrustSet, where: str) -> None:
    """Raises MixedReplicas when a membership is of another store than a replica's stamp, or the one that it knows."""
    stores = {stamp.store}
    if known is not None:
        with contextlib.suppress(ArtifactError):  # one that cannot be read says nothing
            stores.add(decode(known, trust).store)
    for store in stores - {"", view.store}:
        raise MixedReplicas(
            f"{where} belongs to store {store[:8]}…, and was given the membership of store {view.store[:8]}…: somebody "
            "mixed up replicas; nothing of it was taken over"
        )


class Membership:
    """The membership that holds, as far as this program knows. Safe under threads."""

    def __init__(self, document: Document, trust: TrustSet) -> None:
        self._document = document
        self._trust = trust
        self._lock = threading.Lock()

    @property
    def view(self) -> View:
        return self._document.view

    @property
    def document(self) -> Document:
        return self._document

    def adopt(self, data: bytes) -> bool:
        """Take over a newer one; whether it was newer. Raises ArtifactError, MixedReplicas for another store's."""
        return self.take(Document.read(data, self._trust))

    def take(self, document: Document) -> bool:
        """The same of one that was read."""
        with self._lock:
            mine, other = self._document.view, document.view
            if other.store != mine.store:
                raise MixedReplicas(
                    f"this is the membership of another store ({other.store[:8]}…; this one is {mine.store[:8]}…): "
                    "somebody mixed up replicas; nothing of it was taken over"
                )
            if other.number <= mine.number:
                return False
            self._document = document
            return True

    def __repr__(self) -> str:
        view = self.view
        joint = f", changing to {len(view.next)}" if view.next else ""
        return f"<Membership {view.number} of store {view.store[:8]}…: {len(view.members)} replicas{joint}>"


def place(where: str) -> str:
    """A location as it is compared: paths without `.`, `..` and doubled slashes, all else as it is."""
    if "://" in where or where.startswith("pool:"):
        return where.rstrip("/")
    return os.path.normpath(where)


def here(signer: Signer) -> str:
    """This program, in words."""
    return plain(f"pid {os.getpid()} on {host_name()[:24]}, key {signer.public_key.hex()[:8]}")


def names(members: Sequence[Member]) -> str:
    """Members, for a message."""
    return ", ".join(member.where for member in members)


def _view(words: Any) -> View:
    """Raises LailaError, ValueError, TypeError, KeyError for what is no view."""
    if type(words) is not dict or set(words) != _KEYS:
        raise ValueError("its fields are not those of a membership")
    number, stale = words["number"], words["allow_stale_reads"]
    if type(number) is not int or not 1 <= number < 1 << 62 or type(stale) is not bool:
        raise ValueError("a field is not of its type")
    for key in ("by", "change"):
        if type(words[key]) is not str or len(words[key]) > _MOST_WORDS:
            raise ValueError(f"{key!r} is no text of up to {_MOST_WORDS} characters")
    for key in ("write_quorum", "read_quorum"):
        if words[key] is not None and type(words[key]) is not int:
            raise ValueError(f"{key!r} is no number")
    members, following = _members(words["members"]), _members(words["next"])
    if not members:
        raise ValueError("it has no members")
    quorums = Quorums(words["write_quorum"], words["read_quorum"], stale)
    for group in (members, following):
        if group:
            quorums.check(len(group))
    return View(_id(words["store"]), number, members, following, quorums)


def _members(words: Any) -> tuple[Member, ...]:
    if type(words) is not list or len(words) > MOST_MEMBERS:
        raise ValueError(f"its members are no list of up to {MOST_MEMBERS}")
    found = []
    for one in words:
        if type(one) is not dict or set(one) != {"id", "where"}:
            raise ValueError("a member is something else than an id and where it is")
        where = one["where"]
        if type(where) is not str or not 0 < len(where) <= _MOST_WORDS or not where.isprintable():
            raise ValueError("a member's place cannot be one")
        found.append(Member(_id(one["id"]), where))
    if len({member.id for member in found}) < len(found):
        raise ValueError("a member stands in it twice")
    if len({place(member.where) for member in found}) < len(found):
        raise ValueError("two members are in one place")
    return tuple(found)


def _id(word: Any) -> str:
    if type(word) is not str or not _ID.fullmatch(word):
        raise ValueError("an id is not 32 hex digits")
    return word


def _listed(members: Sequence[Member]) -> list[dict[str, str]]:
    return [{"id": member.id, "where": member.where} for member in members]


def _corrupt(why: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"this is no membership of a store: {why}", path=NAME)
