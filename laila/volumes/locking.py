"""The two kinds of lock on an open file, taken without waiting.

`flock` belongs to the open file; `fcntl` locks one byte for the process, and whichever descriptor of the file the
process closes frees it. So nobody opens a file of the second kind twice.
"""

from __future__ import annotations

import errno
import fcntl

FLOCK, FCNTL = "flock", "fcntl"
HOWS = (FLOCK, FCNTL)
EXCLUSIVE, SHARED = "exclusive", "shared"
MODES = (EXCLUSIVE, SHARED)
_TAKEN = (errno.EAGAIN, errno.EACCES)


def take(descriptor: int, how: str, mode: str, first: int = 0) -> bool:
    """Whether the lock was free; `first` is the byte that `fcntl` locks. Raises OSError where nothing can be locked."""
    operation = (fcntl.LOCK_EX if mode == EXCLUSIVE else fcntl.LOCK_SH) | fcntl.LOCK_NB
    try:
        if how == FLOCK:
            fcntl.flock(descriptor, operation)
        else:
            fcntl.lockf(descriptor, operation, 1, first)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def release(descriptor: int, how: str) -> None:
    """Raises OSError."""
    if how == FLOCK:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    else:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, 0)


def refusal(error: OSError) -> str:
    """The system's name for the error, such as ENOLCK."""
    return errno.errorcode.get(error.errno or 0, type(error).__name__)
