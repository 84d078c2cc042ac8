"""The system's errors about a shared volume, as one sentence that says what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from ..errors import LailaError, StorageError

_DISK_FULL = "free space on it; what was there before is unchanged"
_GONE = "the volume was unmounted or its server is away: see to the mount, then try again"
_ADVICE = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL,
    errno.EACCES: "ask its owner for the right to do that, or run as another user",
    errno.EPERM: "ask its owner for the right to do that, or run as another user",
    errno.EROFS: "it is mounted read-only: only reading works there",
    errno.ENOTDIR: "a file is where a directory is expected",
    errno.ESTALE: _GONE,
    errno.ENOTCONN: _GONE,
    errno.EIO: _GONE,
    errno.EHOSTDOWN: _GONE,
    errno.ETIMEDOUT: _GONE,
    errno.ENODEV: _GONE,
    errno.EBADF: "this mount emulates locks and refuses this one: see `laila volume check`",
    errno.ENOLCK: "this mount has no locks to give: see `laila volume check`",
}
STALE = (errno.ESTALE,)
"""What a network file system says of a file that was replaced while it was read: reading again helps."""


@contextlib.contextmanager
def told(doing: str) -> Iterator[None]:
    """Map the system's errors to StorageError; FileNotFoundError and laila's own errors pass."""
    try:
        yield
    except (LailaError, FileNotFoundError):
        raise
    except OSError as error:
        raise storage_error(doing, error) from error


def storage_error(doing: str, error: OSError) -> StorageError:
    """The error for a person: what failed, why, and what to do."""
    reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
    advice = _ADVICE.get(error.errno or 0, "see to the volume, then try again")
    return StorageError(f"cannot {doing}: {error.strerror or error} ({reason}); {advice}", reason=reason)
