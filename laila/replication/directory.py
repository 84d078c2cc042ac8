"""A directory as a replica. The seed's program reads what lies there; many processes may serve the same directory.

A put, in this order; a kill at any point leaves the old version or the new one:
1. verify the copy; write it to `.laila/incoming`, fsync.
2. take the lock of the name, look at what is there; end here unless the copy is newer.
3. rename it to its place, fsync the directory. A tombstone takes its place before the live file goes, a live version
   before the tombstone goes: of two files the greater tag counts, so what is in between is never "nothing".

- What says that something was lost (a file that cannot be read, a version gone that was seen here) is looked at again
  under the lock, and then marked: from there on the replica says Unsure about the name, in every process, until
  `settle`. Damaged files are moved to quarantine when they are read whole, or replaced; never removed.
- Without a stamp, or while it is rebuilt, what is here of a name does not count: `look` says Unsure, `fetch` raises.
  `branches` and `check`, which are for care, tell what is there.
- The directory must be the one that was opened, before and after each call. One that was mounted again is known by
  its stamp.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence

from ..artifacts import Artifact, TrustSet
from ..artifacts.layout import FOOTER
from ..artifacts.vouchers import Pair
from ..errors import (
    ArtifactCorrupt,
    ArtifactError,
    BadValue,
    MembershipStale,
    MixedReplicas,
    StorageError,
    UnsafeVolume,
    UntrustedSigner,
)
from ..names import check_name
from ..pools.disk import make_directory
from ..shared.admission import admit
from .copies import SMALL, Arrival, Copy
from .incoming import Incoming, sweep
from .index import Entry, Index
from .layout import READING, Layout, bytes_of, told
from .membership import decode, require_same_store
from .quarantine import Quarantine
from .records import Records
from .replica import Branch, Health, Listing, Replica, Stamp
from .stripes import Stripes
from .suspects import Suspects
from .tags import Found, Stand, Tag, Unsure

FRESH = 2.0
"""Seconds for which one look at all names serves the steps of a comparison."""
_UNREADABLE = (errno.EIO, errno.EILSEQ, errno.EUCLEAN, errno.EBADMSG, errno.ELOOP)
"""What the system says of bytes that a disk does not give back, or gives back wrong."""


class DirectoryReplica(Replica):
    """One directory. Nothing is touched before the first call, which makes the directory if `create` says so.

    Every call raises StorageError when the directory cannot be used (not there, unmounted, full, read-only, a lock
    held for too long), UnsafeVolume where locks are known not to exclude.
    """

    def __init__(
        self, path: str | os.PathLike[str], trust: TrustSet, *, where: str | None = None, create: bool = True
    ) -> None:
        self._layout = Layout(path, create=create)
        self.where = str(self._layout.root) if where is None else where
        self._trust = trust
        self._suspects = Suspects(self._layout.suspect)
        self._quarantine = Quarantine(self._layout.quarantine)
        self._records = Records(self._layout, trust)
        self._book: tuple[list[Pair] | None, list[Pair]] = (None, [])
        """The vouchers as they were read last, and those of them that are believed."""
        self._stripes = Stripes(self._layout.locks, self._layout.root)
        self._index = Index(self._layout, trust, self._suspects)
        self._opening = threading.Lock()
        self._scanning = threading.Lock()
        self._identity: tuple[int, int] | None = None
        self._closed = False
        self._scanned = -FRESH

    # -- identity and membership --

    def stamp(self) -> Stamp:
        self.vouchers()
        return self._records.stamp()

    def prepare(self) -> None:
        with told(f"make {self._layout.root}"):
            make_directory(self._layout.root)

    def mark(self, stamp: Stamp, before: Stamp | None = None) -> bool:
        if not stamp.store or not stamp.replica:
            raise BadValue("a stamp names a store and a replica")
        self._require()
        with self._writing("mark it"), self._stripes.record("stamp"):
            now = self._records.stamp()
            if before is not None and now != before:
                return False
            if (now.store or stamp.store, now.replica or stamp.replica) != (stamp.store, stamp.replica):
                raise MixedReplicas(
                    f"{self.where} is replica {now.replica} of store {now.store}, not replica {stamp.replica} of store "
                    f"{stamp.store}: two stores were mixed up; give the directory that belongs here, or an empty one"
                )
            self._records.write_stamp(stamp)
            self._records.stamp()
        return True

    def membership(self) -> bytes | None:
        self._require()
        try:
            return self._records.membership()[1]
        except StorageError:
            return None  # damaged: the next one that is learned replaces it

    def learn(self, document: bytes) -> None:
        self._require()
        view = decode(document, self._trust)
        with self._writing("learn the membership"), self._stripes.record("membership"):
            number, known = 0, None
            with contextlib.suppress(StorageError):
                number, known = self._records.membership()
            require_same_store(view, self._records.stamp(), known, self._trust, self.where)
            if view.number > number:
                self._records.write_membership(document)

    def ballot(self) -> bytes | None:
        self._require()
        return self._records.ballot()

    def cast(self, before: bytes | None, after: bytes) -> bool:
        self._require()
        with self._writing("cast a ballot"), self._stripes.record("ballot"):
            if self._records.ballot() != before:
                return False
            self._records.write_ballot(after)
        self._require()
        return True

    # -- who is believed --

    def vouchers(self) -> list[Pair]:
        self._require()
        return self._learned()

    def _learned(self) -> list[Pair]:
        found = self._records.vouchers.read()
        if found is not self._book[0]:
            self._trust.learn(found)
            self._book = found, sorted(pair for pair in found if pair in self._trust.learned)
        return self._book[1]

    def vouch(self, vouchers: Collection[Pair]) -> None:
        self._require()
        believed = {pair for pair in vouchers if self._trust.vouches(*pair)}
        if believed <= set(self._records.vouchers.read()):
            return
        with self._writing("keep vouchers"), self._stripes.record("vouchers"):
            self._records.vouchers.write(believed.union(self.vouchers()))
        self._trust.learn(believed)

    # -- versions --

    def look(self, names: Sequence[str], number: int) -> list[Found]:
        with self._member(number):
            found: list[Found] = [self._look(check_name("artifact", name)).found for name in names]
            unsure = self._unsure()
        return found if unsure is None else [unsure] * len(names)

    def fetch(self, name: str, number: int) -> Copy | None:
        check_name("artifact", name)
        copy = None
        try:
            with self._member(number):
                copy = self._fetch(name)
            return copy
        except BaseException:
            if copy is not None:
                copy.close()
            raise

    def arrival(self, name: str, size: int) -> Arrival:
        self._require()
        self._layout.make_housekeeping()
        return Arrival(name, size, self._layout.incoming)

    def put(self, copy: Copy, number: int) -> Stand:
        name = check_name("artifact", copy.name)
        copy.require(self._trust)
        with self._member(number):
            entry = self._look(name)
            stand = entry.stand
            if stand is not None and stand.tag >= copy.stand.tag and entry.bad is None and not entry.lost:
                return stand
            unnamed = copy.descriptor if copy.home == self._layout.incoming else -1
            with self._writing(f"keep {name!r}"), Incoming(self._layout.incoming, unnamed) as file:
                if not file.taken:
                    _write(file, copy)
                file.sync()
                with self._stripes.name(name):
                    stand = self._clean(name).stand
                    if stand is not None and stand.tag >= copy.stand.tag:
                        return stand
                    self._place(name, file, copy.stand)
            return copy.stand

    # -- care --

    def branches(self, prefixes: Sequence[str]) -> list[Branch]:
        self._require()
        if "" in prefixes or time.monotonic() - self._scanned > FRESH:  # a comparison begins with the whole
            self._scan()
        self._require()
        return self._index.branches(prefixes)

    def names(self, number: int) -> Listing:
        with self._member(number):
            self._scan()
            entries = {name: entry.found for name, entry in self._index.entries().items()}
        return Listing.of(entries)

    def check(self, name: str, number: int) -> Health:
        check_name("artifact", name)
        with self._member(number):
            return self._check(name)

    def _check(self, name: str) -> Health:
        found = self._look(name).found
        with told(f"read {name!r} in {self._layout.root}"):
            errors = [error for path in self._files(name) if (error := self._damage(path, name)) is not None]
        if errors and not isinstance(found, Unsure):
            found = Unsure(str(errors[0]))
        if isinstance(found, Unsure):
            return Health(found, False, str(errors[0]) if errors else found.reason)
        return Health(found, found is not None)

    def distrust(self, name: str, reason: str) -> None:
        check_name("artifact", name)
        self._require()
        with self._writing(f"distrust {name!r}"), self._stripes.name(name):
            self._require_own(name, self._index.look(name))
            self._suspects.mark(name, reason)
            for path in self._files(name):
                self._quarantine.take(path, name)
            self._index.forgive(name)
            self._index.look(name)

    def settle(self, name: str, tag: Tag | None, mark: str) -> None:
        check_name("artifact", name)
        self._require()
        with self._writing(f"settle {name!r}"), self._stripes.name(name):
            entry = self._index.look(name)
            if entry.fear is None or entry.fear.mark != mark:
                return
            entry = self._clean(name)
            if entry.fear is None or entry.fear.mark != mark:
                return  # something was lost since, and has a mark of its own
            if tag is not None and (entry.stand is None or entry.stand.tag < tag):
                return
            self._suspects.clear(name)
            self._index.forgive(name)
            self._index.look(name)

    def scrub(self) -> Iterator[tuple[str, Health]]:
        self._require()
        with contextlib.suppress(OSError):  # one that cannot be written to can be read all the same
            sweep(self._layout.incoming)
        self._scan()
        for name in sorted(self._index.entries()):
            yield name, self._scrubbed(name)

    def quarantined(self) -> list[str]:
        self._require()
        with told(f"list {self._layout.quarantine}"):
            return self._quarantine.names()

    def close(self) -> None:
        self._closed = True
        self._stripes.close()

    def __repr__(self) -> str:
        return f"<DirectoryReplica {self.where!r}{' closed' if self._closed else ''}>"

    # -- whether it is still there, and whose it is --

    def _require(self) -> None:
        """Raises StorageError unless the directory is the one that was opened."""
        if self._closed:
            raise StorageError(f"the replica {self.where} was closed; open it again", reason="EBADF")
        if self._identity is None:
            self._first()
        identity = self._layout.identity()
        if identity != self._identity:
            self._again(identity)

    def _first(self) -> None:
        with self._opening:
            if self._identity is not None:
                return
            self._layout.open()
            try:
                admit(self._layout.root)
            except UnsafeVolume as error:
                raise UnsafeVolume(
                    f"{self._layout.root} cannot be a replica: locks on that volume do not exclude, so two writers "
                    "would overwrite each other; give a directory on a local disk, or on a volume that locks "
                    f"(`laila volume check`), or a pool (`pool:NICKNAME`). In detail: {error}",
                    reason="UNSAFE",
                ) from error
            identity = self._layout.identity()
            self._records.stamp()
            self._learned()
            if self._layout.incoming.is_dir():
                with contextlib.suppress(OSError):  # read-only: it can be read all the same
                    sweep(self._layout.incoming)
            self._identity = identity

    def _again(self, identity: tuple[int, int]) -> None:
        """Another directory is there: the same replica, mounted again, or another disk."""
        with self._opening:
            self._layout.require_real()
            if not self._records.same_stamp():
                raise self._layout.out_of_reach()
            self._identity = identity

    def _unsure(self) -> Unsure | None:
        """Why nothing that is here counts; None when it does."""
        stamp = self._records.stamp()
        if stamp.rebuilding:
            return Unsure("it is being rebuilt, and what it says does not count yet")
        if not stamp.replica:
            return Unsure("it has no stamp: it is new, or its disk was exchanged")
        return None

    @contextlib.contextmanager
    def _member(self, number: int) -> Iterator[None]:
        """A call under a membership; refused before, and after, when the replica knows a newer one."""
        self._require()
        self._refuse_older(number)
        with told(f"use {self._layout.root}"):
            yield
        self._require()
        self._refuse_older(number)

    def _refuse_older(self, number: int) -> None:
        known, document = self._records.membership()
        if number < known:
            assert document is not None
            raise MembershipStale(
                f"{self.where} knows membership {known}, and was asked under {number}; take over the newer one",
                number=known,
                document=document,
            )

    # -- what is there --

    def _look(self, name: str) -> Entry:
        """What there is under a name; what looks like a loss is looked at again under the lock, and marked."""
        with told(f"look at {name!r} in {self._layout.root}"):
            entry = self._index.look(name)
        return self._confirmed(name) if entry.trouble else entry

    def _confirmed(self, name: str) -> Entry:
        try:
            with self._writing(f"mark {name!r}"), self._stripes.name(name):
                entry = self._index.look(name)
                if entry.trouble:
                    self._suspect(name, entry.trouble)
                return self._index.look(name)
        except StorageError:  # it cannot be locked, or not be written to
            with told(f"look at {name!r} in {self._layout.root}"):
                return self._index.look(name)

    def _suspect(self, name: str, reason: str) -> None:
        self._suspects.mark(name, reason)
        self._index.forgive(name)

    def _scan(self) -> None:
        with self._scanning:
            with told(f"list {self._layout.root}"):
                troubled = self._index.scan()
            for name in troubled:
                self._confirmed(name)
            self._scanned = time.monotonic()

    def _require_own(self, name: str, entry: Entry) -> None:
        """Raises what keeps this process from touching a file that it cannot judge."""
        file = entry.ours
        if file is None or not isinstance(file.found, Unsure):
            return
        if file.ours is UntrustedSigner:
            raise UntrustedSigner(
                f"{self.where} has a version of {name!r} by somebody whom this program does not trust, so it must not "
                f"be replaced: add the signer to the trust set ({file.found.reason})",
                path=name,
            )
        raise StorageError(f"{file.found.reason}; try again", reason="EAGAIN")

    def _clean(self, name: str) -> Entry:
        """What counts under the name, under its lock: without damaged files and without the lesser one of two.

        Raises UntrustedSigner for what is bad for this process alone.
        """
        entry = self._index.look(name)
        self._require_own(name, entry)
        if entry.trouble:
            self._suspect(name, entry.trouble)
            entry = self._index.look(name)
        for file, path in zip((entry.live, entry.gone), self._files(name), strict=True):
            if file is not None and isinstance(file.found, Unsure):
                if entry.fear is None:
                    self._suspect(name, file.found.reason)
                self._quarantine.take(path, name)
            elif file is not None and file.found != entry.stand:
                os.unlink(path)  # noqa: PTH108  # a text, as above
        return self._index.look(name)

    def _place(self, name: str, file: Incoming, stand: Stand) -> None:
        live, gone = self._files(name)
        target, other = (gone, live) if stand.gone else (live, gone)
        status = file.publish(target)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(other)  # noqa: PTH108  # a text, as above
        self._index.placed(name, status, stand)

    def _fetch(self, name: str) -> Copy | None:
        entry = self._look(name)
        if isinstance(entry.found, Unsure):
            if entry.live is not None or entry.gone is not None:
                self._set_aside(name, entry.found.reason)
            raise self._no_answer(name, entry.found)
        copy = self._open(name)
        if (unsure := self._unsure()) is not None:
            if copy is not None:
                copy.close()
            raise self._no_answer(name, unsure)
        return copy

    def _no_answer(self, name: str, unsure: Unsure) -> ArtifactError:
        return ArtifactError(f"{self.where} cannot vouch for {name!r}: {unsure.reason}", path=name)

    def _open(self, name: str) -> Copy | None:
        """The newest version, verified. What is damaged is set aside. Raises ArtifactError."""
        for _ in range(20):
            entry = self._index.look(name)
            stand = entry.stand
            if stand is None:
                return None
            path = (
                self._layout.gone_file(name) if entry.gone is not None and entry.gone.found == stand else None
            )
            try:
                return self._copy(path or self._layout.live_file(name), name)
            except FileNotFoundError:  # a newer one took its place just now
                continue
            except UntrustedSigner:
                raise
            except ArtifactError as error:
                if self._set_aside(name, str(error)):
                    raise ArtifactCorrupt(f"{self.where}: {error}", path=name) from error
        raise StorageError(f"{name!r} in {self.where} is replaced all the time; try again", reason="EAGAIN")

    def _copy(self, path: str, name: str) -> Copy:
        descriptor = os.open(path, READING)
        try:
            size = os.fstat(descriptor).st_size
            if size > SMALL:
                kept, descriptor = descriptor, -1
                return Copy.of_descriptor(name, kept, self._trust)
            return Copy.of_bytes(name, bytes_of(descriptor), self._trust)
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _damage(self, path: str, name: str) -> ArtifactError | None:
        """What is wrong with the bytes of a file, all of which are read; None also when it is not there any more."""
        try:
            _forget_cached(path)
            artifact = Artifact.load(path, trust=self._trust)
            if artifact.version is not None and artifact.name != name:
                return ArtifactCorrupt(
                    f"{path} is a version of {artifact.name!r}, not of {name!r}", path=path
                )
        except FileNotFoundError:
            return None
        except ArtifactError as error:
            return error
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            return ArtifactCorrupt(f"{path} cannot be read from the disk: {error.strerror}", path=path)
        return None

    def _files(self, name: str) -> tuple[str, str]:
        return self._layout.live_file(name), self._layout.gone_file(name)

    def _set_aside(self, name: str, reason: str) -> bool:
        """Put what is damaged under a name into quarantine; whether something was.

        Where nothing can be written, the name is suspect for this process alone.
        """
        try:
            with self._writing(f"set {name!r} aside"), self._stripes.name(name):
                damaged = []
                for path in self._files(name):
                    error = self._damage(path, name)
                    if error is not None and not isinstance(error, UntrustedSigner):
                        damaged.append(path)
                if damaged:
                    self._suspects.mark(name, reason)
                for path in damaged:
                    self._quarantine.take(path, name)
                if damaged:
                    self._index.forgive(name)
                    self._index.look(name)
                return bool(damaged)
        except StorageError:
            self._suspects.keep_in_mind(name, reason)
            self._index.look(name)
            return True

    def _scrubbed(self, name: str) -> Health:
        health = self._check(name)
        if not health.valid and isinstance(health.found, Unsure):
            self._set_aside(name, health.error)
            return health
        with contextlib.suppress(StorageError), self._writing(f"tidy {name!r}"):
            entry = self._index.look(name)
            if entry.live is not None and entry.gone is not None:
                with self._stripes.name(name):
                    self._clean(name)
        return health

    # -- locks --

    @contextlib.contextmanager
    def _writing(self, doing: str) -> Iterator[None]:
        with told(f"{doing} in {self._layout.root}"):
            self._layout.make_housekeeping()
            yield


def _write(file: Incoming, copy: Copy) -> None:
    """The bytes of a copy. Those that somebody may have changed since they were verified are hashed on the way."""
    hash = None if copy.private else hashlib.sha256()
    covered = copy.size - FOOTER
    for at, piece in copy.chunks():
        file.write(piece)
        if hash is not None:
            hash.update(memoryview(piece)[: max(0, covered - at)])
    if hash is not None and hash.hexdigest() != copy.stand.tag.digest:
        raise ArtifactCorrupt(f"the copy of {copy.name!r} was changed while it was read", path=copy.name)


def _forget_cached(path: str) -> None:
    """Let the file be read from the disk, and not from memory, where that can be asked for."""
    descriptor = os.open(path, READING)
    try:
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
