"""Where the files of a directory replica are, and whether the disk under it is still the one that was opened.

<directory>/<name>.maif                   the newest live version, replaced by rename only
<directory>/.laila/replica.json           the stamp
<directory>/.laila/membership.maif        the newest membership document
<directory>/.laila/ballot                 the acceptor's state
<directory>/.laila/vouchers               vouchers that were made anew
<directory>/.laila/gone/<name>.maif       a tombstone
<directory>/.laila/suspect/<name>         why nothing that is here under the name counts
<directory>/.laila/quarantine/            damaged files, under other names
<directory>/.laila/incoming/              versions that arrive
<directory>/.laila/locks/                 lock files

- Nothing is reached through a symbolic link below the directory itself.
- A directory that lost its identity (unmounted, another disk mounted) is out of reach, it is not empty.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import BadName, LailaError, StorageError
from ..names import check_name
from ..pools.disk import make_directory
from ..shared.trouble import storage_error

SUFFIX = ".maif"
HOUSEKEEPING = ".laila"
READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""How a file is opened that may have been put there by anybody."""
PARTS = ("gone", "suspect", "quarantine", "incoming", "locks")


class Layout:
    """The paths of one directory replica. Nothing is touched before `open`."""

    def __init__(self, root: str | os.PathLike[str], *, create: bool = True) -> None:
        self.root = Path(root).absolute()
        self.housekeeping = self.root / HOUSEKEEPING
        self.stamp = self.housekeeping / "replica.json"
        self.membership = self.housekeeping / f"membership{SUFFIX}"
        self.ballot = self.housekeeping / "ballot"
        self.gone, self.suspect, self.quarantine, self.incoming, self.locks = (
            self.housekeeping / part for part in PARTS
        )
        self._create = create
        self._live = f"{self.root}/"
        self._tombstones = f"{self.gone}/"
        self._made = False

    def live_file(self, name: str) -> str:
        """The path of a live version. The name was checked."""
        return f"{self._live}{name}{SUFFIX}"

    def gone_file(self, name: str) -> str:
        """The path of a tombstone. The name was checked."""
        return f"{self._tombstones}{name}{SUFFIX}"

    def open(self) -> None:
        """Make the directory, if that is wanted and it is not there. Raises StorageError."""
        with told(f"use {self.root} as a replica"):
            if not self.root.is_dir() and self._create:
                make_directory(self.root)
            if not self.root.exists():
                raise StorageError(
                    f"{self.root} is not there; mount what belongs there, or make an empty directory to have this "
                    "replica rebuilt in it",
                    reason="ENOENT",
                )
            if not self.root.is_dir():
                raise NotADirectoryError(20, "it is no directory")
        self.require_real()

    def identity(self) -> tuple[int, int]:
        """What tells this directory from another one at the same path. Raises StorageError."""
        try:
            status = os.stat(self.root)  # noqa: PTH116  # at each call, and Path costs twice as much
        except OSError as error:
            raise self.out_of_reach() from error
        return status.st_dev, status.st_ino

    def out_of_reach(self) -> StorageError:
        return StorageError(
            f"{self.root} is out of reach: what was opened there is not there any more; mount it again, or put the "
            "directory back, then try again",
            reason="ESTALE",
        )

    def require_real(self) -> None:
        """Raises StorageError when a part of the housekeeping is no real directory."""
        for directory in (self.housekeeping, *(self.housekeeping / part for part in PARTS)):
            with told(f"look at {directory}"):
                try:
                    status = directory.lstat()
                except FileNotFoundError:
                    continue
            if not stat.S_ISDIR(status.st_mode):
                raise StorageError(
                    f"{directory} is no directory; remove it: the replica keeps its records there",
                    reason="ENOTDIR",
                )

    def make_housekeeping(self) -> None:
        """Make the directories below, durably. Raises StorageError."""
        if self._made and self.incoming.is_dir():
            return
        self.require_real()
        with told(f"make {self.housekeeping}"):
            for part in PARTS:
                make_directory(self.housekeeping / part)
        self._made = True


def is_name(name: str) -> bool:
    try:
        check_name("artifact", name)
    except BadName:
        return False
    return True


def name_in(file: str) -> str | None:
    """The name whose version a file is, by the file's name; None for other files."""
    if not file.endswith(SUFFIX) or file[0] == ".":
        return None
    name = file.removesuffix(SUFFIX)
    return name if is_name(name) else None


def contents(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file, which is not reached through a link. Raises OSError."""
    descriptor = os.open(path, READING)
    try:
        return bytes_of(descriptor)
    finally:
        os.close(descriptor)


def bytes_of(descriptor: int) -> bytes:
    """All bytes of an open file, as many as it had when this began. Raises OSError."""
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, size, 0)
    while len(data) < size and (piece := os.pread(descriptor, size - len(data), len(data))):
        data += piece
    return data


@contextlib.contextmanager
def told(doing: str) -> Iterator[None]:
    """Map the system's errors, also that nothing is there, to StorageError with advice."""
    try:
        yield
    except LailaError:
        raise
    except OSError as error:
        raise storage_error(doing, error) from error
