"""Files that arrive: written beside everything else, whole and on disk before they take their place by rename.

A file is locked (flock) while its writer lives, so what a killed writer left is known, and swept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import Self

from ..codec import Buffer
from ..pools.disk import sync_directory

SUFFIX = ".tmp"
OLD = 60.0
"""Seconds after which a file that nobody has locked is taken for a dead writer's."""


class Incoming:
    """One file that arrives in `directory`. Leaving the context removes it, unless it was published. Raises OSError.

    `unnamed`: a descriptor of a file that arrived there without a name (O_TMPFILE); it is given one when that can be
    done, and then `taken` is true: nothing has to be written. Nobody else may have the file.
    """

    def __init__(self, directory: Path, unnamed: int = -1) -> None:
        self.taken = False
        self._unnamed = unnamed
        self._path = directory / f"{secrets.token_hex(8)}{SUFFIX}"
        self._descriptor = -1
        self._published = False

    def __enter__(self) -> Self:
        if self._unnamed >= 0:
            with contextlib.suppress(OSError):
                os.link(f"/proc/self/fd/{self._unnamed}", self._path, follow_symlinks=True)
                self.taken = True
                self._descriptor = os.dup(self._unnamed)
        if not self.taken:
            self._descriptor = self._opened()
        with contextlib.suppress(OSError):  # a volume without flock was refused, or is never swept
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def _opened(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._path, flags, 0o666)

    def __exit__(self, *error: object) -> None:
        if not self._published:
            with contextlib.suppress(OSError):
                self._path.unlink()
        with contextlib.suppress(OSError):  # a volume that went away has said so before
            os.close(self._descriptor)

    def write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        while len(view):
            view = view[os.write(self._descriptor, view) :]

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def publish(self, target: str | os.PathLike[str]) -> os.stat_result:
        """Make it the file at `target`, durably; what it is there."""
        self._path.rename(target)
        self._published = True
        sync_directory(Path(target).parent)
        return os.fstat(self._descriptor)


def write_durably(directory: Path, target: Path, data: Buffer) -> None:
    """Replace the file at `target`, all or nothing, through `directory`. Raises OSError."""
    with Incoming(directory) as file:
        file.write(data)
        file.sync()
        file.publish(target)


def sweep(directory: Path, older: float = OLD) -> int:
    """Remove what dead writers left; how many files. Raises OSError."""
    removed = 0
    with os.scandir(directory) as entries:
        old = [
            entry.path
            for entry in entries
            if entry.name.endswith(SUFFIX) and time.time() - _modified(entry) > older
        ]
    for path in old:
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)  # noqa: PTH108  # a text from scandir
                removed += 1
            finally:
                os.close(descriptor)
    return removed


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return time.time()
