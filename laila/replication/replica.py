"""What a replica is: whatever keeps the newest version of each name, durably, and takes only newer ones.

Three kinds: a directory, a pool, and a replica of either kind that a peer serves. One conformance suite
(tests/replication/replica_conformance.py) holds for all of them.

Rules
- A version is taken only when its tag is greater than that of what is there, live or tombstone; atomically, whoever
  else writes to the same replica. What was acknowledged is on disk.
- A version is taken only when it is whole, signed by somebody trusted, and of that name.
- A replica that lost what it had under a name (damaged, put back, forgotten by an accident) says Unsure until it has
  been given the newest version again: it never says "I never had that". Each loss has a mark of its own.
- A blank one (no stamp) and one that is rebuilding say Unsure of every name in `look`, whatever they have: it does not
  count yet. Both take versions, so that they can be filled; `branches` tells what they have nevertheless.
- Calls carry the number of the membership under which they are made. One that is older than the replica's is refused
  with MembershipStale, also when it became older while the call was carried out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..artifacts.vouchers import Pair
from .copies import Arrival, Copy
from .tags import Found, Stand, Tag, Unsure


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which store a replica belongs to, and which one of its replicas it is. Empty texts: it is blank."""

    store: str = ""
    replica: str = ""
    rebuilding: bool = False
    """It lost everything, or is new: it takes versions, but what it says of names does not count yet."""
    life: str = ""
    """A random text, new whenever it is marked as rebuilding: what was copied to one disk gives no other its vote."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A part of the digest tree: all names whose SHA-256 begins with a prefix of hex digits.

    `digest` (16 bytes) covers names and tags; equal digests are equal parts. A small part comes with its `entries`
    instead of the digests of its 256 `branches` (16 bytes each, joined; by the next two digits).
    """

    prefix: str
    digest: bytes
    count: int
    branches: bytes = b""
    entries: tuple[tuple[str, Found], ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """All names that a replica has, sorted; none is in both lists. Those with a tombstone are in neither."""

    live: list[str]
    unsure: list[str]
    """Of which it cannot say what it has."""

    @classmethod
    def of(cls, found: Mapping[str, Found]) -> Listing:
        """By what there is under each name."""
        live = [name for name, one in found.items() if isinstance(one, Stand) and not one.gone]
        unsure = [name for name, one in found.items() if isinstance(one, Unsure)]
        return cls(sorted(live), sorted(unsure))


@dataclass(frozen=True, slots=True)
class Health:
    """What a replica's own look at the bytes of one name found."""

    found: Found
    valid: bool
    """Every byte was read, and is signed by somebody trusted."""
    error: str = ""


class Replica(ABC):
    """One replica. Safe under threads. `where` names it: a path, `laila://NODE/STORE`, `pool:NICKNAME`.

    Every operation raises StorageError, LinkError, DeadlineExceeded or Denied when it cannot be done, and those that
    take `number` (of the membership) MembershipStale.
    """

    where: str
    remote: bool = False
    """Whether bytes travel to reach it."""

    # -- identity and membership --

    @abstractmethod
    def stamp(self) -> Stamp:
        """Which one it is; a blank Stamp for one that is new, or whose disk was exchanged."""

    def prepare(self) -> None:  # noqa: B027  most places are there
        """A store begins here, or is to grow here: what is not there yet may be made. Raises StorageError.

        Nobody else makes it: what is missing under a store that there is may be a disk that is not mounted.
        """

    @abstractmethod
    def mark(self, stamp: Stamp, before: Stamp | None = None) -> bool:
        """Give a blank one its identity, or say that it is rebuilt; with `before` only if its stamp is exactly that
        until now. Whether it was done. Raises MixedReplicas when it is another one.
        """

    @abstractmethod
    def membership(self) -> bytes | None:
        """The newest membership document that it learned: a signed artifact."""

    @abstractmethod
    def learn(self, document: bytes) -> None:
        """Take a membership document, if it is newer and signed by somebody trusted. Raises MixedReplicas for one of
        another store than the stamp, or the document that it knows.
        """

    @abstractmethod
    def ballot(self) -> bytes | None:
        """The acceptor's state, for `agreement`: any bytes."""

    @abstractmethod
    def cast(self, before: bytes | None, after: bytes) -> bool:
        """Replace the acceptor's state, durably, if it is still `before`; whether it was."""

    # -- who is believed --

    @abstractmethod
    def vouchers(self) -> list[Pair]:
        """The vouchers made anew that it keeps, as far as its trust set believes them, which learns them. Sorted."""

    @abstractmethod
    def vouch(self, vouchers: Collection[Pair]) -> None:
        """Keep these, durably, beside what it keeps; those that its trust set does not believe are left out."""

    # -- versions --

    @abstractmethod
    def look(self, names: Sequence[str], number: int) -> list[Found]:
        """What it has under each name: cheap, by its files' heads."""

    @abstractmethod
    def fetch(self, name: str, number: int) -> Copy | None:
        """Its newest version, or tombstone; None when it never had one. Close it.

        Raises ArtifactError when what it has is damaged; it is put into quarantine then.
        """

    def arrival(self, name: str, size: int) -> Arrival:
        """Where a large copy that is to be put here is to arrive."""
        return Arrival(name, size)

    @abstractmethod
    def put(self, copy: Copy, number: int) -> Stand:
        """Take a version if it is newer than what is there; what is there afterwards, durably.

        Raises ArtifactError for one that must not be taken.
        """

    # -- care --

    @abstractmethod
    def branches(self, prefixes: Sequence[str]) -> list[Branch]:
        """Parts of the digest tree. `""` is all of it."""

    @abstractmethod
    def names(self, number: int) -> Listing:
        """All names. One that is blank or rebuilding lists what it has: it is for the caller to leave it out."""

    @abstractmethod
    def check(self, name: str, number: int) -> Health:
        """Read and verify every byte under a name, now."""

    @abstractmethod
    def distrust(self, name: str, reason: str) -> None:
        """Put what it has under a name into quarantine, and say Unsure until a good version comes."""

    @abstractmethod
    def settle(self, name: str, tag: Tag | None, mark: str) -> None:
        """A quorum of the others, asked after this one said Unsure with `mark`, has `tag` as its newest (None:
        nothing): what is here counts again if it is at least that. Another mark, of a later loss, stays.
        """

    @abstractmethod
    def scrub(self) -> Iterator[tuple[str, Health]]:
        """`check` name after name; what is damaged goes into quarantine."""

    def quarantined(self) -> list[str]:
        """Names under which something lies in quarantine, sorted."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Let go of files and links; idempotent."""
