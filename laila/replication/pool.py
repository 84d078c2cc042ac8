"""A pool as a replica: one that a node has for itself, or one in a server that several nodes share.

A put: verify the copy, write its bytes, then swap the slot of the name from what was there to what is there now. The
swap is the moment at which a version is taken; who loses it looks again. Then the bytes that the old slot named are
removed. A kill at any point leaves the old version or the new one, and at most bytes that nobody names, which `scrub`
removes when nobody has claimed them for an hour.

- A swap whose outcome is unknown may have been done, or may be done yet: bytes that the slot may name stay.
- A reader whose bytes went away under it looks at the slot again; only when that still names them, they are lost.
- What says that something was lost (a slot gone or lower than was seen here, damaged bytes) is marked in the slot:
  from there on every program says Unsure about the name, until `settle`. The mark is a swap, so it hits only what was
  judged.
- A replica is as durable as its pool: what a server without persistence loses, it has lost. The stamp goes with the
  rest, so one that lost everything counts for nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from ..artifacts import TrustSet
from ..artifacts.vouchers import MOST, Pair, packed, unpacked
from ..codec import Encoded
from ..errors import (
    ArtifactCorrupt,
    ArtifactError,
    BadValue,
    Corrupt,
    LimitExceeded,
    MembershipStale,
    MixedReplicas,
    StorageError,
    UntrustedSigner,
)
from ..names import check_name
from ..pools import Pool
from .branches import Tree
from .copies import Copy
from .membership import decode, require_same_store
from .replica import Branch, Health, Listing, Replica, Stamp
from .shelf import NOTHING, Shelf, Slot, ballot_record, content, parsed, vouchers_record, written
from .tags import Found, Stand, Tag, Unsure

MEMBERSHIP = "laila-membership"
FRESH = 2.0
"""Seconds for which one look at all names serves the steps of a comparison."""
STRAY = 3600.0
"""Seconds after which bytes that nobody names belong to nobody."""
SLOW = 60.0
"""Seconds after which a put makes sure that its bytes were not taken for stray ones."""
MOST_TRIES = 1000
"""How often a change is tried that others come before; each time somebody else got on."""
UNREADABLE = Encoded(b"")
"""The record of a slot that the pool cannot give back: nothing equals it."""
_BLANK = Stamp()
_LOCAL = ("memory", "filesystem", "sqlite")


class PoolReplica(Replica):
    """The replica of `store` in a pool, which stays its owner's to close and must have no upstream.

    Several replicas may live in one pool under different store names; programs that share a pool share its replica.
    """

    def __init__(self, pool: Pool, trust: TrustSet, *, where: str, store: str = "store") -> None:
        self.where = where
        self.remote = pool.kind not in _LOCAL
        self._trust = trust
        self._shelf = Shelf(pool, store)
        self._mutex = threading.Lock()
        self._scanning = threading.Lock()
        self._mending = threading.Lock()
        self._seen: dict[str, Tag] = {}
        self._slots: dict[str, tuple[Encoded | None, Slot]] = {}
        self._tree = Tree()
        self._scanned = -FRESH
        self._document: tuple[Encoded, bytes] | None = None
        self._strays: dict[str, float] = {}
        self._book: tuple[bytes, list[Pair]] = (b"", [])
        """The vouchers as they were read last, and those of them that are believed."""
        self._closed = False

    # -- identity and membership --

    def stamp(self) -> Stamp:
        return self._stamp_in(self._pool.get(self._shelf.stamp))

    def mark(self, stamp: Stamp, before: Stamp | None = None) -> bool:
        if not stamp.store or not stamp.replica:
            raise BadValue("a stamp names a store and a replica")
        words = {
            "store": stamp.store,
            "replica": stamp.replica,
            "rebuilding": stamp.rebuilding,
            "life": stamp.life,
        }
        for _ in self._tries("mark it"):
            record = self._pool.get(self._shelf.stamp)
            now = self._stamp_in(record)
            if before is not None and now != before:
                return False
            if (now.store or stamp.store, now.replica or stamp.replica) != (stamp.store, stamp.replica):
                raise MixedReplicas(
                    f"{self.where} is replica {now.replica} of store {now.store}, not replica {stamp.replica} of store "
                    f"{stamp.store}: two stores were mixed up; give the pool that belongs here, or an empty one"
                )
            if self._pool.swap(self._shelf.stamp, record, written(words)):
                return True
        raise AssertionError

    def membership(self) -> bytes | None:
        try:
            pointer = self._pointer()
            return None if pointer is None else self._document_of(pointer)
        except StorageError as error:
            if error.reason == "EBADMSG":
                return None  # damaged: the next one that is learned replaces it
            raise

    def learn(self, document: bytes) -> None:
        view = decode(document, self._trust)
        stamp = self.stamp()
        pointer: Encoded | None = None
        try:
            for _ in self._tries("learn the membership"):
                before = self._pointer()
                known = self.membership()
                require_same_store(view, stamp, known, self._trust, self.where)
                if before is not None and view.number <= _number(before) and known is not None:
                    return
                mine = pointer or self._shelf.keep_document(view.number, document)
                pointer = None  # from here on the entry may name it
                if not self._exchanged(self._shelf.membership, before, mine):
                    pointer = mine
                    continue
                if before is not None:
                    self._shelf.drop_document(before)
                return
        finally:
            if pointer is not None:
                self._shelf.drop_document(pointer)

    def ballot(self) -> bytes | None:
        with self._readable("the ballot"):
            record = self._pool.get(self._shelf.ballot)
        return None if record is None else content(record)

    def cast(self, before: bytes | None, after: bytes) -> bool:
        expected = None if before is None else ballot_record(before)
        with self._readable("the ballot"):
            return self._pool.swap(self._shelf.ballot, expected, ballot_record(after))

    # -- who is believed --

    def vouchers(self) -> list[Pair]:
        with self._readable("the vouchers"):
            return self._believed(self._pool.get(self._shelf.vouchers))

    def vouch(self, vouchers: Collection[Pair]) -> None:
        believed = {pair for pair in vouchers if self._trust.vouches(*pair)}
        with self._readable("the vouchers"):
            for _ in self._tries("keep vouchers"):
                record = self._pool.get(self._shelf.vouchers)
                known = set(self._believed(record))
                if believed <= known:
                    return
                after = vouchers_record(packed(sorted(believed | known)[:MOST]))
                if self._exchanged(self._shelf.vouchers, record, after):
                    self._trust.learn(believed)
                    return

    # -- versions --

    def look(self, names: Sequence[str], number: int) -> list[Found]:
        for name in names:
            check_name("artifact", name)
        self._require_open()
        found = self._look(list(names))
        unsure = self._unsure()
        self._refuse_older(number)
        return [found[name] if unsure is None else unsure for name in names]

    def fetch(self, name: str, number: int) -> Copy | None:
        check_name("artifact", name)
        self._refuse_older(number)
        copy = self._fetch(name)
        try:
            self._refuse_older(number)
        except BaseException:
            if copy is not None:
                copy.close()
            raise
        return copy

    def put(self, copy: Copy, number: int) -> Stand:
        check_name("artifact", copy.name)
        copy.require(self._trust)
        self._refuse_older(number)
        try:
            stand = self._put(copy)
        except LimitExceeded as error:
            raise StorageError(
                f"cannot keep {copy.name!r} in {self.where}: {error}", reason="ENOSPC"
            ) from error
        self._refuse_older(number)
        return stand

    # -- care --

    def branches(self, prefixes: Sequence[str]) -> list[Branch]:
        self._require_open()
        if "" in prefixes or time.monotonic() - self._scanned > FRESH:  # a comparison begins with the whole
            self._scan()
        with self._mutex:
            return [self._tree.branch(prefix) for prefix in prefixes]

    def names(self, number: int) -> Listing:
        self._refuse_older(number)
        self._scan()
        with self._mutex:
            found = {name: slot.found for name, (_, slot) in self._slots.items()}
        self._refuse_older(number)
        return Listing.of(found)

    def check(self, name: str, number: int) -> Health:
        check_name("artifact", name)
        self._refuse_older(number)
        health = self._check(name)[0]
        self._refuse_older(number)
        return health

    def distrust(self, name: str, reason: str) -> None:
        check_name("artifact", name)
        self._require_open()
        slot = self._slot(name)[1]
        if slot.stand is not None:
            try:
                copy = self._shelf.open(name, slot, self._trust)
                if copy is not None:
                    copy.close()
            except UntrustedSigner:  # others may well believe it
                raise
            except ArtifactError:
                pass
        self._set_aside(name, reason)

    def settle(self, name: str, tag: Tag | None, mark: str) -> None:
        check_name("artifact", name)
        self._require_open()
        for _ in self._tries(f"settle {name!r}"):
            record, slot = self._slot(name)
            if slot.fear is None or slot.fear.mark != mark:
                return
            if tag is not None and (slot.stand is None or slot.stand.tag < tag):
                return
            if record is not UNREADABLE and self._swap(name, record, replace(slot, fear=None), settled=True):
                return

    def scrub(self) -> Iterator[tuple[str, Health]]:
        self._require_open()
        self._sweep()
        self._scan()
        with self._mutex:
            names = sorted(name for name, (_, slot) in self._slots.items() if slot != NOTHING)
        for name in names:
            health, judged = self._check(name)
            if judged is not None:
                self._set_aside(name, health.error, judged)
            yield name, health

    def quarantined(self) -> list[str]:
        self._require_open()
        return self._shelf.noted()

    def close(self) -> None:
        self._closed = True

    def __repr__(self) -> str:
        return f"<PoolReplica {self.where!r}{' closed' if self._closed else ''}>"

    # -- whose it is --

    def _require_open(self) -> None:
        if self._closed:
            raise StorageError(f"the replica {self.where} was closed; open it again", reason="EBADF")

    @property
    def _pool(self) -> Pool:
        self._require_open()
        return self._shelf.pool

    @contextlib.contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        """What is damaged and not a version is a matter of the storage."""
        try:
            yield
        except Corrupt as error:
            raise StorageError(
                f"{what} of {self.where} is damaged ({error}); replace this replica", reason="EBADMSG"
            ) from error

    def _tries(self, doing: str) -> Iterator[int]:
        yield from range(MOST_TRIES)
        raise StorageError(
            f"cannot {doing} in {self.where}: others change it all the time; try again", reason="EAGAIN"
        )

    def _stamp_in(self, record: Encoded | None) -> Stamp:
        if record is None:
            return _BLANK
        with self._readable("the stamp"):
            words = parsed(record)
            store, replica, rebuilding = (words.get(key, "") for key in ("store", "replica", "rebuilding"))
            life = words.get("life", "")
            if [type(store), type(replica), type(rebuilding), type(life)] != [str, str, bool, str]:
                raise Corrupt("it is no stamp")
        return Stamp(store, replica, rebuilding, life)

    def _unsure(self) -> Unsure | None:
        """Why nothing that is here counts; None when it does."""
        with self._readable("the stamp"):
            stamp = self.stamp()
        if stamp.rebuilding:
            return Unsure("it is being rebuilt, and what it says does not count yet")
        if not stamp.replica:
            return Unsure("it has no stamp: it is new, or its pool lost everything")
        return None

    def _pointer(self) -> Encoded | None:
        """The entry that names the newest membership document."""
        with self._readable("the membership"):
            record = self._pool.get(self._shelf.membership)
            if record is not None and type(parsed(record).get("number")) is not int:
                raise Corrupt("it names no number")
            return record

    def _document_of(self, pointer: Encoded) -> bytes:
        known = self._document
        if known is not None and known[0].head == pointer.head:
            return known[1]
        for _ in self._tries("read the membership"):
            with self._readable("the membership"):
                record = self._pool.get(str(parsed(pointer).get("document")))
                if record is None:  # a newer one took its place just now
                    newer = self._pointer()
                    if newer is not None and newer.head != pointer.head:
                        pointer = newer
                        continue
                    raise Corrupt("its document is not there")
                document = content(record)
                self._require_document(document)
            self._document = pointer, document
            return document
        raise AssertionError

    def _require_document(self, document: bytes) -> None:
        """Raises Corrupt. Somebody may have vouched anew for its signer."""
        for tried in (False, True):
            try:
                return Copy.of_bytes(MEMBERSHIP, document, self._trust).close()
            except ArtifactError as error:
                if tried or not isinstance(error, UntrustedSigner) or not self.vouchers():
                    raise Corrupt(str(error)) from error

    def _believed(self, record: Encoded | None) -> list[Pair]:
        data = b"" if record is None else content(record)
        if data != self._book[0]:
            found = unpacked(data)
            self._trust.learn(found)
            self._book = data, sorted(pair for pair in found if pair in self._trust.learned)
        return self._book[1]

    def _refuse_older(self, number: int) -> None:
        pointer = self._pointer()
        if pointer is not None and number < (known := _number(pointer)):
            raise MembershipStale(
                f"{self.where} knows membership {known}, and was asked under {number}; take over the newer one",
                number=known,
                document=self._document_of(pointer),
            )

    # -- slots --

    def _look(self, names: list[str]) -> dict[str, Found]:
        found: dict[str, Found] = {}
        for name, record, readable in self._shelf.heads(list(dict.fromkeys(names))):
            found[name] = self._known(name, record, readable)[1].found
        return found

    def _slot(self, name: str) -> tuple[Encoded | None, Slot]:
        """The slot of a name as it is now, and its record; what looks like a loss is marked."""
        ((_, record, readable),) = self._shelf.heads([name])
        return self._known(name, record, readable)

    def _known(self, name: str, record: Encoded | None, readable: bool) -> tuple[Encoded | None, Slot]:
        """What a record says, after it was held against what was seen before."""
        for _ in self._tries(f"look at {name!r}"):
            trouble, slot = self._judged(name, record, readable)
            if not trouble:
                self._keep(name, record, slot)
                return record, slot
            if not readable:  # nothing can be compared with it, so it is not for a look to replace it
                slot = replace(NOTHING, fear=Unsure(trouble))
                self._keep(name, UNREADABLE, slot, forget=False)
                return UNREADABLE, slot
            feared = slot.feared(trouble)
            try:
                marked = self._exchanged(self._shelf.head(name), record, feared.record())
            except StorageError:  # it cannot be written to: then it counts for this process alone
                self._keep(name, record, feared, forget=False)
                return record, feared
            if marked:
                self._keep(name, feared.record(), feared)
                return feared.record(), feared
            ((_, record, readable),) = self._shelf.heads([name])
        raise AssertionError

    def _judged(self, name: str, record: Encoded | None, readable: bool) -> tuple[str, Slot]:
        """Why a name should be marked as suspect, and what is left of its slot."""
        with self._mutex:
            kept, seen = self._slots.get(name), self._seen.get(name)
        if not readable:
            return f"what {self.where} knows of {name!r} is damaged", NOTHING
        if kept is not None and kept[0] is not None and record is not None and kept[0].head == record.head:
            slot = kept[1]
        else:
            try:
                slot = Slot.of(record)
            except Corrupt as error:
                return f"what {self.where} knows of {name!r} is damaged: {error}", NOTHING
        if seen is None or slot.fear is not None or (slot.stand is not None and slot.stand.tag >= seen):
            return "", slot
        now = "nothing is" if slot.stand is None else f"version {slot.stand.tag} is"
        return (
            f"version {seen} of {name!r} was in {self.where}, and {now} there now: somebody removed it or put an older "
            "one back"
        ), slot

    def _keep(self, name: str, record: Encoded | None, slot: Slot, *, forget: bool = True) -> None:
        with self._mutex:
            if slot.stand is not None and slot.fear is None:
                seen = self._seen.get(name)
                self._seen[name] = slot.stand.tag if seen is None else max(seen, slot.stand.tag)
            elif slot.fear is not None and forget:
                self._seen.pop(name, None)  # the mark stands for it
            if record is None and slot == NOTHING:
                self._slots.pop(name, None)
            else:
                self._slots[name] = record, slot
            self._tree.set(name, slot.found)

    def _swap(self, name: str, before: Encoded | None, after: Slot, *, settled: bool = False) -> bool:
        """`settled`: what was seen before does not count any more."""
        record = after.record()
        if not self._exchanged(self._shelf.head(name), before, record):
            return False
        if settled:
            with self._mutex:
                self._seen.pop(name, None)
        self._keep(name, record, after)
        return True

    def _exchanged(self, key: str, before: Encoded | None, after: Encoded) -> bool:
        """A swap; one whose outcome is unknown is looked after. Raises StorageError when it stays unknown: then `after`
        may be there, or may come yet.
        """
        try:
            return self._pool.swap(key, before, after)
        except StorageError:
            now = self._pool.get(key)
            if _same(now, after):
                return True
            if _same(now, before):
                raise
            return False

    def _scan(self) -> None:
        """Look at every slot."""
        with self._scanning:
            names = self._shelf.names()
            with self._mutex:
                vanished = self._slots.keys() - set(names)
            for name, record, readable in self._shelf.heads([*names, *vanished]):
                self._known(name, record, readable)
            self._scanned = time.monotonic()

    # -- versions --

    def _fetch(self, name: str) -> Copy | None:
        unsure = self._unsure()
        for _ in self._tries(f"read {name!r}"):
            _, slot = self._slot(name)
            found = unsure if unsure is not None else slot.found
            if isinstance(found, Unsure):
                raise ArtifactError(f"{self.where} cannot vouch for {name!r}: {found.reason}", path=name)
            if found is None:
                return None
            error = f"the bytes of version {found.tag} of {name!r} are not there any more"
            try:
                copy = self._shelf.open(name, slot, self._trust)
                if copy is not None:
                    return copy
            except UntrustedSigner:
                raise
            except ArtifactError as damage:
                error = str(damage)
            if self._set_aside(name, error, slot):
                raise ArtifactCorrupt(f"{self.where}: {error}", path=name)
        raise AssertionError

    def _put(self, copy: Copy) -> Stand:
        began = time.time()
        fresh: Slot | None = None
        try:
            for _ in self._tries(f"keep {copy.name!r}"):
                record, slot = self._slot(copy.name)
                if record is UNREADABLE:
                    self._set_aside(copy.name, slot.fear.reason if slot.fear is not None else "", slot)
                    continue
                if slot.stand is not None and slot.stand.tag >= copy.stand.tag:
                    if slot.stand.tag > copy.stand.tag or self._shelf.whole(slot):
                        return slot.stand
                    reason = f"the bytes of version {slot.stand.tag} of {copy.name!r} are not there any more"
                    self._set_aside(copy.name, reason, slot)
                    continue
                mine = fresh or self._shelf.store(copy)
                fresh = None  # from here on the slot may name it
                try:
                    taken = self._swap(copy.name, record, replace(mine, fear=slot.fear))
                except LimitExceeded:  # it was not begun
                    fresh = mine
                    raise
                if not taken:
                    fresh = mine
                    continue
                with contextlib.suppress(StorageError):  # then they are stray
                    self._shelf.drop(slot)
                if abs(time.time() - began) > SLOW and not self._shelf.whole(mine):
                    continue  # it took so long that somebody swept its bytes away
                return copy.stand
            raise AssertionError
        finally:
            if fresh is not None:
                with contextlib.suppress(StorageError):  # then they are stray
                    self._shelf.drop(fresh)

    # -- damage --

    def _check(self, name: str) -> tuple[Health, Slot | None]:
        """What its bytes are, and the slot that should be set aside for it, if one should."""
        for _ in self._tries(f"read {name!r}"):
            record, slot = self._slot(name)
            if slot.stand is None:
                reason = "" if slot.fear is None else slot.fear.reason
                return Health(slot.found, False, reason), slot if record is UNREADABLE else None
            ours = False
            error = f"the bytes of version {slot.stand.tag} of {name!r} are not there any more"
            try:
                copy = self._shelf.open(name, slot, self._trust)
                if copy is not None:
                    copy.close()
                    reason = "" if slot.fear is None else slot.fear.reason
                    return Health(slot.found, slot.fear is None, reason), None
            except ArtifactError as damage:
                error, ours = str(damage), isinstance(damage, UntrustedSigner)
            if self._slot(name)[1] == slot:  # else another one took its place just now
                return Health(Unsure(error), False, error), None if ours else slot
        raise AssertionError

    def _set_aside(self, name: str, reason: str, judged: Slot | None = None) -> bool:
        """Put what is under a name into quarantine, with `judged` only if it is still that; whether it was."""
        for _ in self._tries(f"set {name!r} aside"):
            record, slot = self._slot(name)
            if judged is not None and slot != judged:
                return False
            if record is UNREADABLE:
                if self._replaced(name, slot.without(reason)):
                    return True
                continue
            note = self._shelf.note(name, slot, reason)
            if self._swap(name, record, slot.without(reason)):
                return True
            if note:
                self._shelf.remove([note])
        raise AssertionError

    def _replaced(self, name: str, after: Slot) -> bool:
        """Give a slot that the pool cannot give back a mark instead; whether it was still that.

        Nothing can be compared with it. Who put a version there in the same instant, in another process, finds the
        mark: the name is unsure then, never lost in silence.
        """
        with self._mending:
            ((_, _, readable),) = self._shelf.heads([name])
            if readable:
                return False
            record = after.record()
            self._pool.put(self._shelf.head(name), record)
            self._keep(name, record, after)
            return True

    def _sweep(self) -> None:
        """Remove bodies that nobody has named for an hour, in the sight of this process."""
        now = time.monotonic()
        try:
            strays = self._shelf.strays()
        except Corrupt:  # whatever that names is somebody's
            return
        since = {body: self._strays.get(body, now) for body in strays}
        old = [body for body, first in since.items() if now - first > STRAY]
        for body in old:
            with contextlib.suppress(StorageError):  # one that cannot be written to can be read all the same
                self._shelf.remove(strays[body])
                del since[body]
        self._strays = since


def _same(one: Encoded | None, other: Encoded | None) -> bool:
    """Of two small entries."""
    if one is None or other is None:
        return one is other
    return one.head == other.head


def _number(pointer: Encoded) -> int:
    number: int = parsed(pointer)["number"]
    return number
