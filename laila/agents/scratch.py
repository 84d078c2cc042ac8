"""Files in the making, and how they get their names: whole, on disk, and once.

Strategy: bytes go to a file of their own in a scratch directory on the same volume and are fsynced; then either a
hard link gives them a name that nobody has (`place_new`: of any number of writers exactly one wins, without a
lock), or a rename replaces a file (`replace`: under a lock, by whoever asked it). A crash leaves a scratch file
and nothing else.

Scratch files are named after the volume's clock, so that whoever sweeps can tell those of dead writers without
comparing the clocks of two machines.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ..pools.disk import make_directory, sync_directory
from .trouble import writing

ABANDONED = 3_600_000
"""Milliseconds by the volume's clock after which an unfinished file has no writer any more."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class NoHardLinks(Exception):
    """This file system has none; whoever sees this takes a lock and uses `replace`."""


class Scratch:
    """A directory for unfinished files. `now` tells milliseconds by the volume's clock."""

    def __init__(self, directory: Path, now: Callable[[], int]) -> None:
        self.directory = directory
        self._now = now

    @contextlib.contextmanager
    def file(self, data: bytes) -> Iterator[Path]:
        """A new file with these bytes, on disk; gone afterwards under this name. Raises StorageError."""
        path = self.directory / f"{self._now():015d}-{uuid.uuid4().hex}"
        with writing(f"write in {self.directory}"):
            try:
                descriptor = self._create(path)
                try:
                    view = memoryview(data)
                    while view:
                        view = view[os.write(descriptor, view) :]
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except BaseException:
                _remove(path)
                raise
        try:
            yield path
        finally:
            _remove(path)

    def sweep(self) -> None:
        """Remove what dead writers left."""
        oldest = self._now() - ABANDONED
        with contextlib.suppress(OSError):  # nothing depends on it, and the next one sweeps again
            for path in self.directory.iterdir():
                if path.name[:15].isdigit() and int(path.name[:15]) < oldest:
                    _remove(path)

    def _create(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            make_directory(self.directory)
            return os.open(path, flags, 0o666)


def place_new(temporary: Path, final: Path) -> bool:
    """Give the file a further name unless that is taken; whether it got it. The caller syncs the directory.

    Raises NoHardLinks, StorageError.
    """
    with writing(f"publish {final}"):
        try:
            final.hardlink_to(temporary)
        except FileExistsError:
            # A network file system may have done it, lost the answer, and tried again.
            return os.path.samestat(os.lstat(temporary), os.lstat(final))
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise NoHardLinks from error
            raise
    return True


def replace(temporary: Path, final: Path) -> None:
    """Let the file take the place of `final`, durably. Raises StorageError."""
    with writing(f"publish {final}"):
        temporary.replace(final)
        sync_directory(final.parent)


def note(path: Path, data: bytes = b"") -> None:
    """Write a small file in place that nothing depends on; never through a link that somebody put there.

    Raises StorageError.
    """
    with writing(f"write {path}"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o666)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)


def sync(*directories: Path) -> None:
    """Make the names in these directories durable. Raises StorageError."""
    for directory in directories:
        with writing(f"make the names in {directory} durable"):
            sync_directory(directory)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a leftover is swept later
        path.unlink()
