"""What the pools on a disk share: durable directories, and the system's errors under their own names."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from laila.errors import LailaError, StorageError


def identity(path: Path) -> tuple[int, int]:
    """What tells this file or directory from one that takes its name later."""
    status = path.stat()
    return status.st_dev, status.st_ino


def make_directory(path: Path) -> None:
    """Make the directory and its parents, durably; touch nothing if it is there."""
    missing = list(itertools.takewhile(lambda directory: not directory.exists(), [path, *path.parents]))
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if (
            error.errno != errno.EINVAL
        ):  # some file systems have directories that cannot be synced, nor need it
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def reported(doing: str, instead: str = "") -> Iterator[None]:
    """Map the system's error to StorageError with its name as the reason."""
    try:
        yield
    except LailaError:
        raise
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise StorageError(
            f"cannot {instead or doing}: {error.strerror or error} ({reason})", reason=reason
        ) from error
