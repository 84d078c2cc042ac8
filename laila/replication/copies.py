"""A copy: one version of one name as the bytes of its file, which are the same on every replica.

Small ones are kept in memory. Large ones lie in a file without a name, from which every replica is served at its own
pace, so that sending to many takes no more memory than sending to one.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from ..artifacts import Artifact, Signer, TrustSet
from ..artifacts.source import READ_UP_TO
from ..codec import Buffer
from ..errors import ArtifactCorrupt, RolledBack, Unsigned, UntrustedSigner
from ..names import check_name
from .tags import Stand

CHUNK = 2 << 20
"""Bytes in which large copies travel."""
SMALL = 4 << 20
"""Bytes up to which a copy is kept in memory."""


class Copy:
    """The bytes of one version. Close it, or use it as a context manager."""

    def __init__(self, name: str, stand: Stand, data: Buffer | None = None, descriptor: int = -1) -> None:
        self.name = name
        self.stand = stand
        self._data = None if data is None else memoryview(data).cast("B").toreadonly()
        self._descriptor = descriptor
        self.home: Path | None = None
        """The directory that it arrived in, in a file without a name that may be given one there."""
        self._verified_by: TrustSet | None = None
        self._verified: Artifact | None = None  # what verifying it made, for the first who asks
        self._mutex = threading.Lock()

    @classmethod
    def of_bytes(cls, name: str, data: Buffer, trust: TrustSet) -> Self:
        """Raises ArtifactError unless these bytes are a version of `name` that `trust` believes."""
        view = memoryview(data).cast("B").toreadonly()
        artifact = Artifact.from_bytes(view, trust=trust, path=name)
        copy = cls(name, stand_of(artifact, len(view), name), view)
        copy._verified_by, copy._verified = trust, artifact
        return copy

    @classmethod
    def of_descriptor(cls, name: str, descriptor: int, trust: TrustSet | None) -> Self:
        """The same of an open file, which is the copy's from here on, also when this raises.

        Without `trust` it is not verified yet: nothing but its head was looked at.
        """
        try:
            artifact = _load(descriptor, trust)
            copy = cls(name, stand_of(artifact, os.fstat(descriptor).st_size, name), descriptor=descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        copy._verified_by, copy._verified = trust, artifact if trust is not None else None
        return copy

    @classmethod
    def encode(cls, name: str, artifact: Artifact, signer: Signer, trust: TrustSet) -> Self:
        """Sign an artifact, which has been named as the version that it is to be; the one encoding for all replicas.

        Raises: UntrustedSigner when `trust` does not believe `signer`, StorageError, ArtifactCorrupt, BadValue.
        """
        if trust.trusts(signer.public_key, signer.voucher) is None:
            raise UntrustedSigner(
                f"this program signs with key {signer.public_key.hex()[:16]}…, which its own trust set does not "
                "hold, so nobody here would read what it saves: add the key to the trust set, or give `key`",
                path=name,
            )
        if artifact.weight <= SMALL:
            data = artifact.to_bytes(key=signer)
            copy = cls(name, stand_of(artifact, len(data), name), data)
        else:
            descriptor = _spool(artifact, signer)
            copy = cls(name, stand_of(artifact, os.fstat(descriptor).st_size, name), descriptor=descriptor)
        copy._verified_by = trust
        return copy

    @property
    def size(self) -> int:
        return self.stand.size

    @property
    def descriptor(self) -> int:
        """Of the file that it is in; -1 when it is in memory."""
        return self._descriptor

    @property
    def private(self) -> bool:
        """Whether nobody else can change its bytes: they are in memory, or in a file without a name."""
        return self._data is not None or os.fstat(self._descriptor).st_nlink == 0

    def read(self, at: int, count: int) -> Buffer:
        """Up to `count` bytes from `at` on."""
        if self._data is not None:
            return self._data[at : at + count]
        return os.pread(self._descriptor, count, at)

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[int, Buffer]]:
        """Offset and bytes, in order."""
        at = 0
        while at < self.size:
            piece = self.read(at, size)
            if not len(piece):
                raise ArtifactCorrupt(
                    f"the copy of {self.name!r} became shorter while it was read", path=self.name
                )
            yield at, piece
            at += len(piece)

    def require(self, trust: TrustSet) -> None:
        """Verify every byte, unless this trust set has verified it before. Raises ArtifactError."""
        if self._verified_by is not trust:
            self._verified = self.artifact(trust)
            self._verified_by = trust

    def artifact(self, trust: TrustSet | None = None) -> Artifact:
        """The artifact, which outlives the copy; with `trust` everything is verified first. Raises ArtifactError."""
        with self._mutex:
            verified, self._verified = self._verified, None
        if verified is not None and trust is not None and self._verified_by is trust:
            return verified
        if self._data is not None:
            artifact = Artifact.from_bytes(self._data, path=self.name)
        else:
            artifact = _load(self._descriptor)
        if trust is not None and trust is not self._verified_by:
            artifact.require(trust)
        if stand_of(artifact, self.size, self.name) != self.stand:
            raise ArtifactCorrupt(
                f"what came as version {self.stand.tag} of {self.name!r} is another one", path=self.name
            )
        return artifact

    def share(self) -> Copy:
        """The same copy for somebody else, who closes it."""
        with self._mutex:
            descriptor = -1 if self._descriptor < 0 else os.dup(self._descriptor)
        shared = Copy(self.name, self.stand, self._data, descriptor)
        shared._verified_by = self._verified_by
        return shared

    def close(self) -> None:
        """Idempotent."""
        with self._mutex:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Copy of {self.name!r} version {self.stand.tag}, {self.size} bytes>"


class Arrival:
    """A copy that comes in pieces, in any order; into memory when it is small, else into a file without a name.

    `home`: the directory that the file is to be in, where it shall stay.
    """

    def __init__(self, name: str, size: int, home: Path | None = None) -> None:
        self.name = check_name("artifact", name)
        self.size = size
        self._home = home
        self._memory = bytearray(size) if size <= SMALL else None
        self._descriptor = -1 if self._memory is not None else _unnamed(size, home)
        self._came = 0

    def write(self, at: int, piece: Buffer) -> None:
        """Raises ArtifactCorrupt for a piece that lies outside."""
        view = memoryview(piece).cast("B")
        if at < 0 or at + len(view) > self.size:
            raise ArtifactCorrupt(
                f"a piece of {self.name!r} lies outside of its {self.size} bytes", path=self.name
            )
        if self._memory is not None:
            self._memory[at : at + len(view)] = view
        else:
            done = 0
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done:], at + done)
        self._came += len(view)

    def seal(self, trust: TrustSet) -> Copy:
        """The whole copy, verified. Raises ArtifactError."""
        if self._came != self.size:
            self.abandon()
            raise ArtifactCorrupt(
                f"{self._came} of {self.size} bytes of {self.name!r} came; ask for it again", path=self.name
            )
        if self._memory is not None:
            return Copy.of_bytes(self.name, self._memory, trust)
        descriptor, self._descriptor = self._descriptor, -1
        copy = Copy.of_descriptor(self.name, descriptor, trust)
        copy.home = self._home
        return copy

    def abandon(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def stand_of(artifact: Artifact, size: int, name: str) -> Stand:
    """What an artifact is as a version of `name`. Raises ArtifactError when it is none."""
    version = artifact.version
    if artifact.signer is None:
        raise Unsigned(f"{name!r}: nobody has signed it, so it can be no version of anything", path=name)
    if version is not None and version.name != name:
        raise RolledBack(
            f"this is version {version.sequence} of {version.name!r}, not one of {name!r}: somebody moved files; "
            "put it back where it belongs",
            path=name,
        )
    return Stand.of(artifact, size, artifact.modified)


def _spool(artifact: Artifact, signer: Signer) -> int:
    with tempfile.TemporaryDirectory(prefix="laila-") as directory:
        path = Path(directory) / "copy"
        artifact.save(path, key=signer, durable=False)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _load(descriptor: int, trust: TrustSet | None = None) -> Artifact:
    """Mapped when it is large and nobody else can shorten it: then it is verified in little memory."""
    private = os.fstat(descriptor).st_nlink == 0
    limit = SMALL if private else READ_UP_TO
    return Artifact.load(f"/proc/self/fd/{descriptor}", trust=trust, read_up_to=limit)


def _unnamed(size: int, home: Path | None) -> int:
    try:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        descriptor, path = os.open(home or tempfile.gettempdir(), flags, 0o666), ""
    except OSError:  # not every file system has files without a name from the beginning
        descriptor, path = tempfile.mkstemp(prefix="laila-", dir=home)
    try:
        if path:
            Path(path).unlink()
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
