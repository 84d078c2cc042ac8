"""Publishing a version: only the holder of the lock, only after the version that it began from, and all or nothing.

Protocol, under the exclusive lock and its fencing token:

1. read the head that is there: the base. It must be signed by somebody trusted and not older than what was seen.
2. the new version is base.sequence + 1, its parent is the base's Merkle root, and it carries the token.
3. write it beside its place, fsync (a crash up to here leaves the old version).
4. the last look, within the gate (locking.py): the volume is there, the hold stands, the head is still the base.
5. rename, fsync of the directory.

A holder that was overtaken fails at 4 with LockLost, and what is there stays. Tokens rise in each lineage: a holder
whose token is not greater than the base's is an overtaken one, too. A removed artifact leaves a signed version of its
own, so that numbers go on when the name is used again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts import Artifact, Head, Saved, Signer, TrustSet, create_maif, read_head
from ..errors import (
    AlreadyPublished,
    ArtifactError,
    ArtifactNotFound,
    BadValue,
    LailaError,
    LockLost,
    RolledBack,
    StorageError,
)
from .fingerprint import Fingerprint
from .locking import Locking
from .place import Place
from .reading import Reading
from .seen import Mark, Seen
from .trouble import storage_error, told

if TYPE_CHECKING:
    from ..locks import Hold

_MAX_AGENT_ID = 55
"""Bytes that the file format has for an agent's id."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a new version comes after. `there` is what is at its place: a head, something unreadable, or None."""

    there: Head | Fingerprint | None
    sequence: int = 0
    root: str = ""
    fence: int = 0


class Publishing:
    """How one store writes."""

    def __init__(
        self,
        place: Place,
        locking: Locking,
        reading: Reading,
        seen: Seen,
        trust: TrustSet,
        signer: Signer,
    ) -> None:
        self._place = place
        self._locking = locking
        self._reading = reading
        self._seen = seen
        self._trust = trust
        self._signer = signer

    def base(self, name: str) -> Base:
        """What is there now. Call it under the exclusive lock.

        Raises: ArtifactError when what is there is not to be believed, StorageError.
        """
        self._place.require()
        try:
            with told(f"read {self._place.artifact(name)}"):
                head = self._reading.head_once(name)
        except FileNotFoundError:
            return self._left(name, None)
        if head.version is None:
            return Base(head, 0, head.root)
        return Base(head, head.sequence, head.root, head.fence)

    def base_of_anything(self, name: str) -> Base:
        """The same, but a damaged or foreign file counts as nothing: for those who are going to replace it."""
        try:
            return self.base(name)
        except ArtifactError:
            return self._left(name, self._there(name))

    def current(self, name: str, base: Base) -> Artifact:
        """The artifact at the base, verified. Raises as `base`, and LockLost when it is another one by now."""
        with told(f"read {self._place.artifact(name)}"):
            artifact = self._reading.load_once(name)
        if artifact.root != base.root:
            raise LockLost(f"{name!r} was replaced while its lock is held: somebody writes without the lock")
        return artifact

    def publish(self, name: str, artifact: Artifact, base: Base, hold: Hold) -> Saved:
        """Make `artifact` the version after `base`, durably.

        Raises: LockLost when another holder came in between, AlreadyPublished when the artifact was loaded before
        `base` was published, BadValue when it is another artifact's version, StorageError. What is there stays then.
        """
        hold.check()
        base = _followed(name, artifact, base)
        artifact.name_as(
            name, sequence=base.sequence + 1, parent=base.root, fence=self._token(name, base, hold)
        )
        path = self._place.artifact(name)
        saved = self._save(artifact, path, name, base, hold)
        self._seen.note(name, Mark(saved.sequence, saved.root))
        return saved

    @contextlib.contextmanager
    def sealing(self, name: str, hold: Hold) -> Iterator[None]:
        """Take into the lineage what a program puts at the artifact's place while this lasts, also when it raises.

        Raises: ArtifactError when readers would not take it, and what `publish` raises.
        """
        path = self._place.artifact(name)
        base, before = self.base_of_anything(name), _fingerprint(path)
        try:
            yield
        except BaseException as error:
            if _fingerprint(path) != before:
                try:
                    self._seal(name, base, hold)
                except LailaError as another:
                    error.add_note(f"besides, what was left at {path} is no version: {another}")
            raise
        if _fingerprint(path) != before:
            self._seal(name, base, hold)

    def _seal(self, name: str, base: Base, hold: Hold) -> None:
        path = self._place.artifact(name)
        there = self._there(name)
        if there is None:
            if base.there is not None:
                self._bury(name, replace(base, there=None), hold)
            return
        with told(f"read {path}"):
            artifact = Artifact.load(path, trust=self._trust)
        version = artifact.version
        if version is not None and version.name == name and version.sequence > base.sequence:
            _require_descent(artifact, base)
            hold.check()
            self._seen.note(name, Mark(version.sequence, version.root))
            return
        self.publish(name, artifact, replace(base, there=there), hold)

    def remove(self, name: str, base: Base, hold: Hold) -> None:
        """Remove what is there, durably, and leave a version that says so. Raises ArtifactNotFound."""
        if base.there is None:
            raise ArtifactNotFound(f"there is no artifact {name!r} in {self._place.root} to remove")
        self._bury(name, base, hold)

    def _bury(self, name: str, base: Base, hold: Hold) -> None:
        hold.check()
        note = create_maif(agent_id_of(name))
        note.add_text(f"{name} was removed", title="Removed")
        note.name_as(name, sequence=base.sequence + 1, parent=base.root, fence=self._token(name, base, hold))
        path = self._place.artifact(name)
        with told(f"remove {path}"):
            self._place.make_housekeeping()
            unlink = partial(path.unlink, missing_ok=True)
            saved = self._save(note, self._place.removed(name), name, base, hold, then=unlink)
            self._place.sync()
        self._seen.note(name, Mark(saved.sequence, saved.root))

    def sweep(self, name: str, paths: list[Path]) -> None:
        """Remove unfinished versions, under the exclusive lock: their writers are dead, or were overtaken."""
        with told(f"remove what killed writers left of {name!r} in {self._place.root}"):
            for path in paths:
                path.unlink(missing_ok=True)

    # -- parts -------------------------------------------------------------------------------------------

    def _save(
        self,
        artifact: Artifact,
        path: Path,
        name: str,
        base: Base,
        hold: Hold,
        then: Callable[[], None] | None = None,
    ) -> Saved:
        """Write and rename, with the last look in between; `then` is done before anybody else may publish."""
        with contextlib.ExitStack() as gate:
            try:
                saved = artifact.save(
                    path, key=self._signer, before_publish=lambda: self._last_look(name, base, hold, gate)
                )
            except StorageError as error:
                raise self._failed(name, base, error) from error
            if then is not None:
                then()
        return saved

    def _failed(self, name: str, base: Base, error: StorageError) -> StorageError:
        """The error of a save for a person: with advice, and with what may have happened all the same."""
        if not isinstance(error.__cause__, OSError):
            return error
        told_so = storage_error(f"publish {self._place.artifact(name)}", error.__cause__)
        try:
            unchanged = self._there(name) == base.there
        except (OSError, LailaError):  # whatever keeps us from looking is what this error is about
            return told_so
        if unchanged:
            return told_so
        return StorageError(
            f"{told_so}; the new version is there already, but may not survive a power cut",
            reason=told_so.reason,
        )

    def _there(self, name: str) -> Head | Fingerprint | None:
        path = self._place.artifact(name)
        try:
            with told(f"read {path}"):
                return read_head(path)
        except FileNotFoundError:
            return None
        except ArtifactError:
            return Fingerprint.of(path)

    def _left(self, name: str, there: Head | Fingerprint | None) -> Base:
        """Where the numbers of a name go on when nothing that is there can be believed."""
        floor = self._seen.highest(name)
        known = Base(there) if floor is None else Base(there, floor.sequence, floor.root)
        try:
            with told(f"read {self._place.removed(name)}"):
                head = read_head(self._place.removed(name))
            head.require(self._trust)
        except (FileNotFoundError, ArtifactError):  # not removed, or nothing that anybody has to believe
            return known
        if head.name != name or head.sequence <= known.sequence:
            return known
        return Base(there, head.sequence, head.root, head.fence)

    def _token(self, name: str, base: Base, hold: Hold) -> int:
        if hold.token <= base.fence:
            raise LockLost(
                f"version {base.sequence} of {name!r} was published under token {base.fence}, this holder has "
                f"{hold.token}: another one overtook it; load it again and redo the work"
            )
        return hold.token

    def _last_look(self, name: str, base: Base, hold: Hold, stack: contextlib.ExitStack) -> None:
        """Right before the rename. The gate stays closed until `stack` is left."""
        stack.enter_context(self._locking.gate(name))
        self._place.require()
        hold.check()
        now = self._there(name)
        if now == base.there:
            return
        what = "nothing" if now is None else "another file"
        if isinstance(now, Head) and now.sequence:
            what = f"version {now.sequence}"
        raise LockLost(
            f"{what} is at {self._place.artifact(name)}, where version {base.sequence} was when this holder began: "
            "another one overtook it, or somebody writes without the lock; load it again and redo the work"
        )


def _followed(name: str, artifact: Artifact, base: Base) -> Base:
    """The base, or the artifact's own version where there is nothing yet: as when it comes from another store."""
    version = artifact.version
    if version is None:
        return base
    if version.name != name:
        raise BadValue(
            f"this artifact is version {version.sequence} of {version.name!r}, and cannot be one of {name!r}: "
            "add its content to a new artifact"
        )
    if base.there is None and version.sequence >= base.sequence:
        return Base(None, version.sequence, version.root, version.fence)
    if (version.sequence, version.root) != (base.sequence, base.root):
        raise AlreadyPublished(
            f"this artifact was loaded at version {version.sequence} of {name!r}, which is at version {base.sequence} "
            "by now: load it again and add to that, or use edit()"
        )
    return base


def _require_descent(artifact: Artifact, base: Base) -> None:
    """A program that continues the lineage by itself must have begun from the base, all of it. Raises RolledBack."""
    history = artifact.history
    first = history[0]
    known = any((version.sequence, version.root) == (base.sequence, base.root) for version in history)
    follows = first.sequence == base.sequence + 1 and first.parent == base.root
    if base.sequence and not (known or follows):
        raise RolledBack(
            f"what was put at {artifact.path} says that it is version {artifact.sequence} of {first.name!r}, but does "
            f"not come from version {base.sequence}, which was there: load that and add to it",
            path=artifact.path or "",
        )


def _fingerprint(path: Path) -> Fingerprint | None:
    try:
        with told(f"look at {path}"):
            return Fingerprint.of(path)
    except FileNotFoundError:
        return None


def agent_id_of(name: str) -> str:
    """The agent's id of an artifact that a store makes: its name, as far as that can be one."""
    if name.isascii() and len(name) <= _MAX_AGENT_ID:
        return name
    word = "".join(letter if letter.isascii() and letter.isprintable() else "-" for letter in name)
    return f"{word[: _MAX_AGENT_ID - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
