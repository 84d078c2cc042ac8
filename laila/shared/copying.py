"""Copies of shared files on their way into the cache: never seen half made, and removed when their maker died."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ..artifacts.layout import FOOTER
from ..errors import StorageError

_CHUNK = 16 << 20
_ABANDONED = 60.0  # seconds; an unlocked copy this old has no maker


@contextlib.contextmanager
def copied(source: Path, directory: Path, make_room: Callable[[int], None]) -> Iterator[tuple[Path, str]]:
    """A private copy of the file `source` in `directory`, and the SHA-256 of all but its footer, in hex.

    It is gone afterwards unless it was moved elsewhere.
    When the disk is full, `make_room(0)` is called once. Raises OSError for `source`, StorageError for the copy.
    """
    path = directory / uuid.uuid4().hex
    # Not to wait for ever on what is no file: whoever may write on the volume may put a pipe there.
    with os.fdopen(os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as original:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(directory, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                digest = _copy(original.fileno(), descriptor, directory)
            except StorageError as error:
                if error.reason not in ("ENOSPC", "EDQUOT"):
                    raise
                make_room(0)
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                digest = _copy(original.fileno(), descriptor, directory)
            yield path, digest
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def remove_abandoned(directory: Path) -> None:
    """Remove the copies whose makers were killed."""
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # finished, or removed by another process
            if time.time() - path.stat().st_mtime < _ABANDONED:
                continue
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                continue  # its maker lives
            finally:
                os.close(descriptor)


def _copy(source: int, target: int, directory: Path) -> str:
    """All bytes of one file, read from its beginning, so that a second attempt starts anew; the hash."""
    at, end, digest = 0, os.fstat(source).st_size - FOOTER, hashlib.sha256()
    while piece := os.pread(source, _CHUNK, at):
        view = memoryview(piece)
        digest.update(view[: max(0, end - at)])
        at += len(piece)
        while view:
            try:
                view = view[os.write(target, view) :]
            except OSError as error:
                raise _unwritable(directory, error) from error
    return digest.hexdigest()


def _unwritable(directory: Path, error: OSError) -> StorageError:
    reason = errno.errorcode.get(error.errno or 0, "")
    return StorageError(
        f"cannot copy into the cache {directory.parent}: {error.strerror} ({reason}); "
        "free space there, or give a local_cache elsewhere",
        reason=reason,
    )
