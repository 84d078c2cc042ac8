"""What a directory has under each name, known by the heads of its files, which are read when a file changed.

- A file is taken for unchanged while its fingerprint proves that. Else its head is read and its signatures verified.
- What is told of a file that somebody else put there is on disk before it is told: its directory is synced first. So
  nobody bases anything on a version that a power cut takes away again.
- A name that had a version in this process' sight, and has a lower one or none now, has lost it.
- Suspicion here is a first look without locks; `directory.py` looks again under the lock before it marks anything.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..artifacts import Head, TrustSet, read_head
from ..artifacts.layout import unpack_file_header
from ..errors import ArtifactError, LailaError, StorageError, UntrustedSigner
from ..pools.disk import sync_directory
from ..shared.fingerprint import Fingerprint
from .branches import Tree
from .layout import SUFFIX, Layout, name_in
from .replica import Branch
from .suspects import Suspects
from .tags import Found, Stand, Tag, Unsure

_ATTEMPTS = 20
_BATCH = 1000
"""Names that are looked at before their directories are synced."""


@dataclass(frozen=True, slots=True)
class File:
    """One file as it was when its head was read. `ours`: bad only for this process, and what it must raise before it
    touches the file; None for all others.
    """

    fingerprint: Fingerprint
    found: Stand | Unsure
    ours: type[LailaError] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What there is under one name: live file, tombstone, and its suspect mark."""

    live: File | None = None
    gone: File | None = None
    fear: Unsure | None = None
    lost: str = ""
    """What this process saw and is not there any more, in words."""

    @property
    def stand(self) -> Stand | None:
        """The greatest of what can be read."""
        stands = [file.found for file in (self.live, self.gone) if file and isinstance(file.found, Stand)]
        return max(stands, key=lambda stand: stand.tag, default=None)

    @property
    def bad(self) -> File | None:
        """A file that cannot be read, or believed."""
        return next(
            (file for file in (self.live, self.gone) if file and isinstance(file.found, Unsure)), None
        )

    @property
    def found(self) -> Found:
        if self.fear is not None:
            return self.fear
        if self.lost:
            return Unsure(self.lost)
        return self.bad.found if self.bad is not None else self.stand

    @property
    def trouble(self) -> str:
        """Why it should be marked as suspect; empty when its mark stands for that, or it need not be."""
        if self.lost or self.fear is not None:
            return self.lost
        bad = self.bad
        return (
            bad.found.reason if bad is not None and bad.ours is None and isinstance(bad.found, Unsure) else ""
        )

    @property
    def ours(self) -> File | None:
        """A file that others may well believe."""
        return next((file for file in (self.live, self.gone) if file and file.ours is not None), None)


EMPTY = Entry()


class Index:
    """The names of one directory. Safe under threads; notices what other processes do. Raises OSError."""

    def __init__(self, layout: Layout, trust: TrustSet, suspects: Suspects) -> None:
        self._layout = layout
        self._trust = trust
        self._suspects = suspects
        self._mutex = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._seen: dict[str, Tag] = {}
        self._troubled: set[str] = set()
        self._tree = Tree()

    def look(self, name: str) -> Entry:
        """What there is under a name now."""
        entry, foreign = self._look(name)
        for directory in foreign:
            sync_directory(directory)
        return self._keep(name, entry)

    def scan(self) -> list[str]:
        """Look at all that changed; the names of which something should be marked as suspect."""
        fears = self._suspects.names()
        with self._mutex:
            entries = dict(self._entries)
        live = _listed(self._layout.root, entries)
        gone = _listed(self._layout.gone, entries)
        changed = [name for name in {*live, *gone, *fears} if name not in entries]
        changed += [
            name
            for name, entry in entries.items()
            if entry.lost
            or entry.fear is not None  # another mark may be there by now
            or name in fears
            or not unchanged(entry.live, live.get(name))
            or not unchanged(entry.gone, gone.get(name))
        ]
        for begin in range(0, len(changed), _BATCH):
            self._refresh(changed[begin : begin + _BATCH])
        with self._mutex:
            return sorted(name for name in self._troubled if self._entries.get(name, EMPTY).trouble)

    def _refresh(self, names: Sequence[str]) -> None:
        fresh: dict[str, Entry] = {}
        foreign = set[Path]()
        for name in names:
            fresh[name], directories = self._look(name)
            foreign.update(directories)
        for directory in foreign:
            sync_directory(directory)
        for name, entry in fresh.items():
            self._keep(name, entry)

    def placed(self, name: str, status: os.stat_result, stand: Stand) -> Entry:
        """This process has just put a version there, durably, under the lock of the name.

        So it is known however young the file is. Who writes into it in the same tick of the clock is found when its
        bytes are read.
        """
        file = File(replace(Fingerprint.of_status(status), unsettled=0.0), stand)
        fear = self._suspects.of(name)
        entry = Entry(gone=file, fear=fear) if stand.gone else Entry(live=file, fear=fear)
        with self._mutex:
            self._seen.pop(name, None)
        return self._keep(name, entry)

    def forgive(self, name: str) -> None:
        """What was seen of a name before does not count: a mark stands for it, or it was settled."""
        with self._mutex:
            self._seen.pop(name, None)

    def branches(self, prefixes: Iterable[str]) -> list[Branch]:
        """By what was looked at last. Raises BadValue."""
        with self._mutex:
            return [self._tree.branch(prefix) for prefix in prefixes]

    def entries(self) -> dict[str, Entry]:
        """By what was looked at last."""
        with self._mutex:
            return dict(self._entries)

    def _keep(self, name: str, entry: Entry) -> Entry:
        with self._mutex:
            stand, seen = entry.stand, self._seen.get(name)
            if seen is not None and (stand is None or stand.tag < seen) and entry.ours is None:
                now = "nothing is" if stand is None else f"version {stand.tag} is"
                entry = replace(
                    entry,
                    lost=f"version {seen} of {name!r} was in {self._layout.root}, and {now} there now: "
                    "somebody removed it or put an older one back",
                )
            elif stand is not None:
                self._seen[name] = stand.tag
            if entry == EMPTY:
                self._entries.pop(name, None)
            else:
                self._entries[name] = entry
            if entry.trouble:
                self._troubled.add(name)
            else:
                self._troubled.discard(name)
            self._tree.set(name, entry.found)
            return entry

    def _look(self, name: str) -> tuple[Entry, list[Path]]:
        """The entry, and the directories that have to be synced before it is told."""
        with self._mutex:
            known = self._entries.get(name, EMPTY)
        live, gone = self._both(name, known)
        foreign = []
        if _other(live, known.live):
            foreign.append(self._layout.root)
        if _other(gone, known.gone):
            foreign.append(self._layout.gone)
        return Entry(live, gone, self._suspects.of(name)), foreign

    def _both(self, name: str, known: Entry) -> tuple[File | None, File | None]:
        """The live file and the tombstone, as they were at one moment.

        A version takes its place before the tombstone goes, so of a tombstone that is not there the live file must be
        looked at again: it may have been replaced in between. The other way round the tombstone tells enough.
        """
        live_path, gone_path = self._layout.live_file(name), self._layout.gone_file(name)
        live = self._read(live_path, name, known.live)
        for _ in range(_ATTEMPTS):
            gone = self._read(gone_path, name, known.gone)
            before = live
            live = self._read(live_path, name, live)
            same = (live is None) == (before is None) and not _other(live, before)
            if gone is not None or (same and (live is not None or not os.path.lexists(gone_path))):
                break
        return live, gone

    def _read(self, path: str, name: str, known: File | None) -> File | None:
        for _ in range(_ATTEMPTS):
            try:
                status = os.lstat(path)
                if unchanged(known, status):
                    return known
                fingerprint = Fingerprint.of_status(status)
                file = File(fingerprint, *self._judged(path, name, status, known))
                if Fingerprint.of_status(os.lstat(path)) == fingerprint:
                    return file
            except FileNotFoundError:
                if not os.path.lexists(path):  # else it was replaced just now
                    return None
        return File(fingerprint, Unsure(f"{path} changes all the time"), ours=StorageError)

    def _judged(
        self, path: str, name: str, status: os.stat_result, known: File | None
    ) -> tuple[Stand | Unsure, type[LailaError] | None]:
        """What a file is, and the error that it is for this process alone."""
        if not stat.S_ISREG(status.st_mode):
            return Unsure(f"{path} is no regular file"), None
        try:
            head = read_head(path)
            stand = _stand(head)
            if known is not None and known.found == stand:
                return known.found, None  # looked at again only because it is so young
            head.require(self._trust)
        except UntrustedSigner as error:
            return Unsure(str(error)), UntrustedSigner
        except ArtifactError as error:
            return Unsure(str(error)), None
        if head.version is not None and head.version.name != name:
            return Unsure(
                f"{path} is version {head.sequence} of {head.version.name!r}, not one of {name!r}"
            ), None
        if head.version is None:  # written in place by a program that does not sync
            _sync(path)
        return stand, None


def _stand(head: Head) -> Stand:
    stand = Stand.of(head, head.size, unpack_file_header(head.header)[3].modified / 1e6)
    tag = stand.tag  # one text for each writer, not one for each file
    return Stand(
        Tag(tag.sequence, sys.intern(tag.writer), tag.digest), stand.root, stand.gone, stand.size, stand.at
    )


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _listed(directory: Path, known: Container[str]) -> dict[str, os.stat_result]:
    """The versions in a directory, by name. Names that are `known` need no check."""
    found = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                name: str | None = entry.name[: -len(SUFFIX)]
                if name not in known or not entry.name.endswith(SUFFIX):
                    name = name_in(entry.name)
                if name is not None:
                    try:
                        found[name] = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:  # replaced or removed just now: the look at the name will tell
                        continue
    except FileNotFoundError:
        pass
    return found


def unchanged(file: File | None, status: os.stat_result | None) -> bool:
    """Whether a file is surely as it was when its head was read, and believed as it was; None is one that is not
    there."""
    if file is None or status is None:
        return file is None and status is None
    if file.ours is UntrustedSigner:  # who is believed changes without it
        return False
    known = file.fingerprint
    return (
        not known.unsettled
        and status.st_ino == known.inode
        and status.st_ctime_ns == known.changed_ns
        and status.st_size == known.size
        and status.st_mtime_ns == known.modified_ns
        and status.st_mode == known.mode
        and status.st_dev == known.device
    )


def _other(file: File | None, known: File | None) -> bool:
    return file is not None and (known is None or file.fingerprint != known.fingerprint)
