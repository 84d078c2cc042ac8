"""Verified private copies of shared artifacts.

Strategy: a copy is named after the SHA-256 that its version's footer states, so a name never means two contents and
there is nothing to go stale; which version is the current one is always asked of the shared volume (its head: header,
lineage and footer, a few small reads). Whether a copy is still what was verified is told by its fingerprint, and by
hashing it all again when that proves nothing: after a change, soon after a change, and in each new process.

    artifacts/<digest>.maif    a verified copy, mode 0400
    used/<digest>              an empty file; its mtime says when the copy was last used
    new/…                      copies that are being made; locked while their maker lives

Rules
- A copy gets its name by rename, when it has that hash, and is verified where it lies by each process that uses it: the
  bytes that were checked are the bytes that are served.
- What is over `capacity` bytes goes, least recently used first, but nothing that this process has open, and nothing
  that another one has made and not read yet: it is locked until then.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..artifacts import Artifact, Head, TrustSet, read_head
from ..errors import ArtifactCorrupt, ArtifactError, StorageError
from .copying import copied, remove_abandoned
from .fingerprint import SETTLED, Fingerprint
from .trouble import told

log = logging.getLogger("laila.shared")

_REMEMBERED = 4096  # copies whose fingerprints are kept in memory
_FILLS = 3  # copies of one version that may vanish before they could be read
_RECOUNT = 256  # fills after which the directory is counted again: other processes fill it too
_TOUCH = 60.0  # seconds between two notes that a copy was used
_LEAST = 4096  # bytes that a small file takes
_READ = (
    1 << 20
)  # unchanged copies up to this size are read, larger ones are mapped: nobody else can shorten them here
_WORTH_WAITING = 4 << 20  # bytes whose hashing takes longer than the clock of file times needs to move on


@dataclass(slots=True)
class Counts:
    """What a cache did in this process."""

    hits: int = 0
    """Served by fingerprint, without hashing."""
    checks: int = 0
    """Copies that were verified in full."""
    fills: int = 0
    damaged: int = 0
    """Copies that were found to be changed, and thrown away."""
    evicted: int = 0


@dataclass(frozen=True, slots=True)
class _Verified:
    head: Head
    fingerprint: Fingerprint


class Cache:
    """Copies in one private directory, of at most `capacity` bytes (and one more while it is in use).

    Safe under threads and processes.
    """

    def __init__(self, directory: Path, capacity: int) -> None:
        self.directory = directory
        self.capacity = capacity
        self.counts = Counts()
        self._copies, self._used, self._new = (directory / part for part in ("artifacts", "used", "new"))
        self._mutex = threading.Lock()
        self._verified: OrderedDict[str, _Verified] = OrderedDict()
        self._lent: weakref.WeakKeyDictionary[Artifact, str] = weakref.WeakKeyDictionary()
        self._touched: dict[str, float] = {}
        self._total = self._until_recount = 0
        with told(f"make the cache {directory}"):
            for part in (self._copies, self._used, self._new):
                part.mkdir(mode=0o700, exist_ok=True)

    def get(self, head: Head, trust: TrustSet, *, again: bool = False) -> Artifact | None:
        """The artifact of this version, from its copy; None when there is no good copy. `again`: hash it in any case.

        Raises UntrustedSigner, Unsigned or ArtifactCorrupt for the head itself, StorageError.
        """
        head.require(trust)  # each time: whom to trust may have changed since the copy was made
        path = self._path(head.digest)
        with self._mutex:
            known = self._verified.get(head.digest)
        try:
            with told(f"read the cached copy {path}"):
                if known is not None and known.head == head and not again:
                    artifact = self._unchanged(path, known.fingerprint)
                    if artifact is not None:
                        return self._lend(head.digest, artifact, "hits")
                artifact = self._checked(path, head, trust)
                return None if artifact is None else self._lend(head.digest, artifact, "checks")
        except FileNotFoundError:
            return None
        except ArtifactError as error:
            self._discard(head.digest, str(error))
            return None

    def fill(self, source: Path, admit: Callable[[Head], None], trust: TrustSet) -> Artifact:
        """Copy the file `source`, verify the copy, keep and load it. `admit` may refuse the version that was copied.

        Raises: what `admit` and `load_maif` raise, OSError when `source` cannot be read, StorageError when the copy
        cannot be written, or is always gone again: it is never the copy of which FileNotFoundError speaks.
        """
        for _ in range(_FILLS):
            artifact = self._fill(source, admit, trust)
            if artifact is not None:
                return artifact
        raise StorageError(
            f"copies in {self.directory} vanish as fast as they are made: its disk is full, or somebody clears it; "
            "free space there, or give a local_cache that nobody else uses"
        )

    def _fill(self, source: Path, admit: Callable[[Head], None], trust: TrustSet) -> Artifact | None:
        """One copy; None when it was gone before it could be read: another process had the same, and evicted it."""
        with copied(source, self._new, self._make_room) as (copy, digest):
            head = read_head(copy)
            admit(head)
            if digest != head.digest:  # before it gets the name of a copy that may be a good one
                Artifact.load(copy, trust=trust)
                raise ArtifactCorrupt(
                    f"{source} was changed while it was copied; load it again", path=str(source)
                )
            path = self._path(head.digest)
            try:
                with told(f"keep a copy in {self.directory}"):
                    copy.chmod(0o400)
                    copy.replace(path)
                    if head.size >= _WORTH_WAITING:
                        # So that what is verified now need not be hashed once more by the next call.
                        time.sleep(min(Fingerprint.of(path).unsettled, SETTLED) * 1.1)
                artifact = self._checked(path, head, trust)  # while it is locked, nobody evicts it
            except FileNotFoundError:
                return None
            except ArtifactError:
                path.unlink(missing_ok=True)
                raise
        if artifact is None:  # changed in this instant: it was this head's own copy
            raise StorageError(
                f"{path} is being changed by somebody; give a local_cache that nobody else uses"
            )
        self._filled(head)
        return self._lend(head.digest, artifact, "fills")

    def clear(self) -> None:
        """Throw away every copy that this process has not open."""
        self._make_room(0)

    # -- serving -----------------------------------------------------------------------------------------

    def _unchanged(self, path: Path, known: Fingerprint) -> Artifact | None:
        """The copy, when it is what was verified, both before and after it was opened."""
        if not known.proves(Fingerprint.of(path)):
            return None
        artifact = Artifact.load(path, read_up_to=_READ)
        return artifact if known.proves(Fingerprint.of(path)) else None

    def _checked(self, path: Path, head: Head, trust: TrustSet) -> Artifact | None:
        """The copy, verified in full; None when it is good, but `head` only claims to be its head.

        Raises ArtifactError when it is not what its name says.
        """
        before = Fingerprint.of(path)
        artifact = Artifact.load(path, trust=trust)
        if artifact.digest != head.digest:
            raise ArtifactCorrupt(f"{path} is another artifact than its name says", path=str(path))
        if read_head(path) != head:
            return None
        if before.proves(Fingerprint.of(path)):
            self._remember(head.digest, _Verified(head, before))
        return artifact

    def _discard(self, digest: str, why: str) -> None:
        path = self._path(digest)
        log.warning("the cached copy %s was changed by somebody and is fetched again: %s", path, why)
        with self._mutex:
            self._verified.pop(digest, None)
            self.counts.damaged += 1
        with told(f"remove the damaged copy {path}"):
            path.unlink(missing_ok=True)

    def _remember(self, digest: str, verified: _Verified) -> None:
        with self._mutex:
            self._verified[digest] = verified
            self._verified.move_to_end(digest)
            while len(self._verified) > _REMEMBERED:
                self._verified.popitem(last=False)

    def _lend(self, digest: str, artifact: Artifact, how: str) -> Artifact:
        now = time.monotonic()
        with self._mutex:
            self._lent[artifact] = digest
            setattr(self.counts, how, getattr(self.counts, how) + 1)
            touch = now - self._touched.get(digest, -_TOUCH) >= _TOUCH
            if touch:
                self._touched[digest] = now
        if touch:
            with contextlib.suppress(FileNotFoundError):  # of a directory that somebody removed
                (self._used / digest).touch(mode=0o600)
        return artifact

    def _path(self, digest: str) -> Path:
        return self._copies / f"{digest}.maif"

    def _filled(self, head: Head) -> None:
        with self._mutex:
            self._total += max(head.size, _LEAST)
            self._until_recount -= 1
            crowded = self._total > self.capacity or self._until_recount < 0
        if crowded:
            self._make_room(self.capacity, keep=head.digest)

    # -- making room -------------------------------------------------------------------------------------

    def _make_room(self, most: int, keep: str = "") -> None:
        """Evict until at most `most` bytes are there, and remove what killed processes left half made."""
        with told(f"make room in the cache {self.directory}"):
            remove_abandoned(self._new)
            copies = sorted(self._census())
            total = sum(size for _, size, _ in copies)
            with self._mutex:
                lent = {keep, *self._lent.values()}
            for _, size, digest in copies:
                if total <= most:
                    break
                if digest in lent:
                    continue
                if not _evicted(self._path(digest)):
                    continue
                (self._used / digest).unlink(missing_ok=True)
                total -= size
                with self._mutex:
                    self._verified.pop(digest, None)
                    self._touched.pop(digest, None)
                    self.counts.evicted += 1
        with self._mutex:
            self._total, self._until_recount = total, _RECOUNT

    def _census(self) -> list[tuple[float, int, str]]:
        """(last use, bytes, digest) of every copy."""
        found = []
        for path in self._copies.iterdir():
            with contextlib.suppress(FileNotFoundError):  # evicted by another process meanwhile
                status, digest = path.stat(), path.stem
                used = status.st_mtime
                with contextlib.suppress(FileNotFoundError):
                    used = (self._used / digest).stat().st_mtime
                found.append((used, max(status.st_size, _LEAST), digest))
        return found


def _evicted(path: Path) -> bool:
    """Remove a copy, unless its maker has it locked: it has not read it yet."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # gone already, or something that is no copy
        path.unlink(missing_ok=True)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
