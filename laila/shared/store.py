"""Signed artifacts on a volume that several nodes share.

The interface of the first store of this kind (`locked_artifact`, `create`, `load`, `load_cached`), and what people
ask for beside it. How reading works is written in reading.py, publishing in publishing.py, what the locks promise in
locking.py, the cache in cache.py, and where the files are in place.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..artifacts import Artifact, Signer, TrustSet, Version, create_maif, default_identity
from ..artifacts.trust import known_secret
from ..errors import AlreadyPublished, ArtifactNotFound, BadValue, Closed
from ..limits import GIB
from .admission import admit
from .cache import Cache
from .locking import Locking
from .place import Place
from .private import cache_home, directory_name, private_directory
from .publishing import Publishing, agent_id_of
from .reading import Reading
from .seen import Seen
from .voucher_file import VoucherFile

if TYPE_CHECKING:
    from ..locks import Holder, LockService
    from ..transport.identity import Identity

CACHE_BYTES = 4 * GIB


class SharedArtifactStore:
    """Artifacts by name in the directory `shared_path`, for any number of threads, processes and nodes.

    `local_cache`: where private copies, and the memory of what was seen, are kept (a sub-directory for each store);
    by default in LAILA_STATE_DIR or the user's cache directory. `cache_bytes`: what the copies may take.
    `identity` signs (default: this node's or user's); `secret`, the cluster's, lets others trust that signature, and
    this store trust theirs; `trust` says otherwise whom to trust. `locks`: a lock service, or the address of one (see
    `laila.locks.connect`); None is flock on the volume. `timeout`: seconds to wait for a lock, None = no end. `node`:
    how this node appears to others in lock messages.

    What it promises: writers exclude each other; readers see whole versions, the newest one, signed by somebody
    trusted under its own name, or an error; a killed writer leaves the old version or the new one. What a lock can
    and cannot promise is written in laila/shared/locking.py.

    Raises: UnsafeVolume where locks on the volume are known not to exclude and no service is given, StorageError,
    BadConfig. Warns (UnprobedVolume) where nobody has checked the volume.
    """

    def __init__(
        self,
        shared_path: str | os.PathLike[str],
        local_cache: str | os.PathLike[str] | None = None,
        *,
        identity: Identity | None = None,
        trust: TrustSet | None = None,
        secret: str | None = None,
        locks: LockService | str | None = None,
        timeout: float | None = 30.0,
        node: str = "",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if not isinstance(cache_bytes, int) or cache_bytes < 0:
            raise BadValue(f"cache_bytes is a number of bytes from 0, not {cache_bytes!r}")
        self._place = place = Place(shared_path)
        self.shared_path = str(place.root)
        if locks is None:
            admit(place.root)
        home = Path(local_cache).absolute() if local_cache is not None else cache_home()
        private = private_directory(home, directory_name(place.root, place.key))
        self.local_cache = str(private)
        self._cache = Cache(private, cache_bytes)
        self._seen = Seen(private_directory(private, "seen"))
        who = identity or default_identity()
        believed = (trust or TrustSet.default(who, secret)).reading(VoucherFile(place.root).read)
        self._locking = Locking(place, locks, timeout=timeout, node=node)
        self._reading = Reading(place, self._locking, self._cache, self._seen, believed)
        self._publishing = Publishing(
            place,
            self._locking,
            self._reading,
            self._seen,
            believed,
            Signer.of(who, secret or known_secret()),
        )
        self._closed = False
        self._swept = False

    # -- the seed's four ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked_artifact(self, name: str, mode: str = "r") -> Iterator[str]:
        """The path of an artifact, while its lock is held: exclusively for "w", with other readers for "r".

        What a "w" block put there becomes a version of the artifact when the block is left, also by an exception: the
        path is the real one, so it is there already. Use `edit` for all or nothing. On a volume that this process may
        only read, "r" takes no lock: a path that was opened stays the version that it was.

        Raises: LockTimeout (says who holds it), LockReentered, LockLost, BadName, ArtifactError when the block left
        something that readers would refuse.
        """
        path = self._path(name)
        if mode == "r":
            with self._locking.shared(name, "reading"):
                yield str(path)
        elif mode == "w":
            self._sweep()
            with self._locking.exclusive(name, "writing") as hold, self._publishing.sealing(name, hold):
                yield str(path)
        else:
            raise BadValue(f"the mode of a locked artifact is 'r' or 'w', not {mode!r}")

    def create(self, name: str, content: str, *, title: str | None = None, exclusive: bool = False) -> str:
        """Publish an artifact with this text; its path. Where there is one already, this is its next version.

        Raises: AlreadyPublished with `exclusive` when there is one, LockTimeout, LockLost, StorageError (what was
        there is unchanged), ArtifactError when what is there is not to be believed, BadName.
        """
        self._path(name)
        artifact = create_maif(agent_id_of(name))
        artifact.add_text(content, title=title)
        return self.put(name, artifact, exclusive=exclusive)

    def load(self, name: str) -> Artifact:
        """The newest version, verified in full. Raises: ArtifactNotFound, ArtifactError (UntrustedSigner, RolledBack,
        ArtifactCorrupt, …), StorageError, BadName.
        """
        self._path(name)
        return self._reading.load(name)

    def load_cached(self, name: str) -> Artifact:
        """The newest version, from a private verified copy where there is one. Raises as `load`.

        Which version is the newest is always asked of the volume.
        """
        self._path(name)
        return self._reading.load_cached(name)

    # -- and more ----------------------------------------------------------------------------------------

    def put(self, name: str, artifact: Artifact, *, exclusive: bool = False) -> str:
        """Publish an artifact as the next version of `name`; its path.

        One that was loaded from here must have been loaded at the version that is still the newest: else
        AlreadyPublished. Raises otherwise as `create`, and BadValue for a version of another name.
        """
        path = self._path(name)
        self._sweep()
        with self._locking.exclusive(name, "publishing") as hold:
            base = self._publishing.base(name)
            if exclusive and base.there is not None:
                raise AlreadyPublished(f"there is an artifact {name!r} already in {self.shared_path}")
            self._publishing.publish(name, artifact, base, hold)
        return str(path)

    @contextlib.contextmanager
    def edit(self, name: str, *, create: bool = False) -> Iterator[Artifact]:
        """The newest version, to be added to while nobody else writes; published when the block ends, unless it
        raises.

        Nothing is published when nothing was added. With `create`, an empty artifact where there is none.
        Raises: ArtifactNotFound, and as `create` and `load`.
        """
        self._path(name)
        self._sweep()
        with self._locking.exclusive(name, "editing") as hold:
            base = self._publishing.base(name)
            if base.there is not None:
                artifact = self._publishing.current(name, base)
            elif create:
                artifact = create_maif(agent_id_of(name))
            else:
                raise ArtifactNotFound(
                    f"there is no artifact {name!r} in {self.shared_path} to edit; create() it first"
                )
            before = artifact.root
            yield artifact
            if artifact.changed or artifact.root != before:
                self._publishing.publish(name, artifact, base, hold)

    def add(
        self, name: str, text: str, title: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Add a text to an artifact that is there, as its next version; the block's id. Raises as `edit`."""
        with self.edit(name) as artifact:
            block = artifact.add_text(text, title=title, metadata=metadata)
        return block

    def names(self) -> list[str]:
        """Of the artifacts that are there, sorted; whether they are good is said by `load`. Raises StorageError."""
        self._require_open()
        return self._place.names()

    def exists(self, name: str) -> bool:
        """Whether there is a file under this name; whether it is good is said by `load`. Raises StorageError,
        BadName.
        """
        self._path(name)
        return self._reading.exists(name)

    def version(self, name: str) -> Version | None:
        """The newest version's number, root, token and time, from a few small reads: its content is not looked at.

        None for a file without a lineage, as other programs write it. Raises as `load`.
        """
        self._path(name)
        return self._reading.head(name).version

    def history(self, name: str) -> tuple[Version, ...]:
        """The versions in the newest one's lineage, oldest first. Raises as `load`."""
        return self.load_cached(name).history

    def holder(self, name: str) -> Holder | None:
        """Who holds the artifact's lock exclusively now, as far as is known. Raises LockUnavailable."""
        self._path(name)
        return self._locking.holder(name)

    def remove(self, name: str) -> None:
        """Remove an artifact, good or bad, durably. What is created under its name later continues its numbers.

        Raises: ArtifactNotFound, LockTimeout, LockLost, StorageError.
        """
        self._path(name)
        with self._locking.exclusive(name, "removing") as hold:
            self._publishing.remove(name, self._publishing.base_of_anything(name), hold)

    def forget_seen(self, name: str) -> None:
        """Take whatever is there next for the newest version: for who restored an older one on purpose."""
        self._path(name)
        self._seen.forget(name)

    def close(self) -> None:
        """Let go of locks and descriptors. Idempotent; loaded artifacts stay usable."""
        if not self._closed:
            self._closed = True
            self._locking.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SharedArtifactStore {self.shared_path!r}{' closed' if self._closed else ''}>"

    # -- parts -------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        path = self._place.artifact(name)
        self._require_open()
        return path

    def _require_open(self) -> None:
        if self._closed:
            raise Closed(f"the store {self.shared_path} was closed; open it again")

    def _sweep(self) -> None:
        """Once, before the first writing: remove the unfinished files of killed writers, whose locks are free."""
        if self._swept:
            return
        self._swept = True
        with contextlib.suppress(OSError):  # listing fails where writing will fail, and says so
            for name, paths in self._place.unfinished().items():
                hold = self._locking.try_exclusive(name, "sweeping")
                if hold is not None:
                    with hold:
                        self._publishing.sweep(name, paths)
