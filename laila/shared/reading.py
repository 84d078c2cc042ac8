"""Reading a shared artifact: verified, by somebody trusted, under its own name, and never older than what was seen.

Readers take no lock and write nothing on the volume: publishing is by rename, so that who opens the file has one
whole version, whatever happens next. Only when what they find is no good do they wait for the lock and look again: it
may be just being written in place, by a program that locks as the first store of this kind did.

What may happen for a moment on network file systems, and is tried again for a bounded time: no file during a rename,
an older file than was seen, a stale handle.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..artifacts import Artifact, Head, TrustSet, Version, read_head
from ..artifacts.source import READ_UP_TO
from ..errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactNotFound,
    LailaError,
    LockReentered,
    LockUnavailable,
    RolledBack,
)
from .cache import Cache
from .locking import Locking
from .place import Place
from .seen import Mark, Seen, forked, rolled_back
from .trouble import storage_error

T = TypeVar("T")

_PAUSES = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.1)
"""Seconds between attempts, on file systems that have more than one kernel."""


class Reading:
    """How one store reads."""

    def __init__(self, place: Place, locking: Locking, cache: Cache, seen: Seen, trust: TrustSet) -> None:
        self._place = place
        self._locking = locking
        self._cache = cache
        self._seen = seen
        self._trust = trust

    def load(self, name: str) -> Artifact:
        """The current version, read from the volume and verified in full."""
        return self._good(name, self.load_once)

    def load_cached(self, name: str) -> Artifact:
        """The current version, from a copy that was verified where there is one."""
        return self._good(name, self._load_cached)

    def head(self, name: str) -> Head:
        """The head of the current version; its signature is verified, its content is not looked at."""
        return self._good(name, self.head_once)

    def exists(self, name: str) -> bool:
        """Whether there is a file under this name, good or bad."""
        path = self._place.artifact(name)

        def look() -> bool:
            path.stat()
            return True

        try:
            return self._settled(name, look)
        except ArtifactNotFound:
            return False

    # -- one attempt -------------------------------------------------------------------------------------

    def load_once(self, name: str) -> Artifact:
        """`load`, without waiting for anything. Raises OSError as the system says it."""
        path = self._place.artifact(name)
        if path.stat().st_size > READ_UP_TO:
            # It would be mapped, and whoever shortens it on the volume would kill this process.
            return self._load_cached(name, again=True)
        floor = self._seen.highest(name)  # before the file is opened: what is there then cannot be older
        artifact = Artifact.load(path)
        artifact.require(self._trust)  # first: damage is damage, and no other version
        self.admit(name, floor, artifact.version, artifact.root, path)
        self.note(name, artifact.version)
        return artifact

    def _load_cached(self, name: str, *, again: bool = False) -> Artifact:
        path = self._place.artifact(name)
        floor = self._seen.highest(name)
        head = read_head(path)
        head.require(self._trust)
        self.admit(name, floor, head.version, head.root, path)
        artifact = self._cache.get(head, self._trust, again=again)
        if artifact is None:
            artifact = self._cache.fill(path, lambda copy: self._admit_head(name, floor, copy), self._trust)
        self.note(name, artifact.version)
        return artifact

    def head_once(self, name: str) -> Head:
        """`head`, without waiting for anything. Raises OSError as the system says it."""
        path = self._place.artifact(name)
        floor = self._seen.highest(name)
        head = read_head(path)
        head.require(self._trust)
        self._admit_head(name, floor, head)
        return head

    def _admit_head(self, name: str, floor: Mark | None, head: Head) -> None:
        self.admit(name, floor, head.version, head.root, self._place.artifact(name))

    def admit(self, name: str, floor: Mark | None, version: Version | None, root: str, path: Path) -> None:
        """Raises RolledBack for less than `floor`, ArtifactCorrupt for another artifact's version."""
        if version is not None and version.name != name:
            raise ArtifactCorrupt(
                f"{path} holds {version.name!r}: a file was renamed or copied over this one; put it back, and restore "
                f"{name!r} from a replica or a copy",
                path=str(path),
                findings=(f"the lineage names {version.name!r} instead of {name!r}",),
            )
        sequence = 0 if version is None else version.sequence
        if floor is None or sequence > floor.sequence:
            return
        if sequence < floor.sequence:
            raise rolled_back(name, floor, sequence, str(path))
        if root != floor.root:
            raise forked(name, floor, Mark(sequence, root))

    def note(self, name: str, version: Version | None) -> None:
        """Remember a version that was verified."""
        if version is not None:
            self._seen.note(name, Mark(version.sequence, version.root))

    # -- more than one attempt ---------------------------------------------------------------------------

    def _good(self, name: str, attempt: Callable[[str], T]) -> T:
        """What one attempt answers; when that finds nothing good, once more under the lock."""
        try:
            return self._settled(name, lambda: attempt(name))
        except ArtifactError:
            with contextlib.ExitStack() as stack:
                try:
                    hold = stack.enter_context(self._locking.shared(name, "reading"))
                except (
                    LockReentered,
                    LockUnavailable,
                ):  # written by this very thread, or nobody can wait for it
                    hold = None
                if hold is None:
                    raise
                return self._settled(name, lambda: attempt(name))

    def _settled(self, name: str, attempt: Callable[[], T]) -> T:
        """What one attempt answers; again and again, for a bounded time, while the file system may be in between."""
        pauses = iter(() if self._place.mount.one_kernel else _PAUSES)
        while True:
            try:
                return attempt()
            except (OSError, RolledBack) as error:
                pause = next(pauses, None) if _passing(error) else None
                if pause is None:
                    if isinstance(error, LailaError):
                        raise
                    raise self._final(name, error) from error
            time.sleep(pause)

    def _final(self, name: str, error: OSError) -> LailaError:
        """What a person is told of an error that stays."""
        self._place.require()
        path = self._place.artifact(name)
        if not isinstance(error, FileNotFoundError):
            return storage_error(f"read {path}", error)
        known = self._seen.highest(name)
        before = f" (version {known.sequence} was seen there before)" if known is not None else ""
        return ArtifactNotFound(
            f"there is no artifact {name!r} in {self._place.root}{before}; names() lists those there are"
        )


def _passing(error: Exception) -> bool:
    """Whether it may be over in a moment."""
    if isinstance(error, LailaError):
        return isinstance(error, RolledBack)
    return isinstance(error, FileNotFoundError) or getattr(error, "errno", None) == errno.ESTALE
