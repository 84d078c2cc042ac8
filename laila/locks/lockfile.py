"""One open description of a lock file, and what goes wrong with it.

flock locks belong to open descriptions, so each hold has one of its own: that is how the kernel keeps threads of
one process apart too. Files are opened read-write for both modes, because NFS emulates flock by byte-range locks,
which ask for write access, and are never truncated. They are closed in forked children, so that a dead parent's
lock does not live on there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import weakref
from pathlib import Path

from laila.errors import LockUnavailable
from laila.mounts import mount_of

from . import record

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_FLAGS = (
    os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
)  # nonblocking, or a pipe of that name would wait for its other end


_open: weakref.WeakSet[LockFile] = weakref.WeakSet()


def _open_quietly(path: str, flags: int) -> int:
    """An open file whose time of access stays as it is, where that is allowed: noting it costs more than reading."""
    try:
        return os.open(path, flags | _FLAGS | os.O_NOATIME, 0o666)
    except PermissionError:  # only the file's owner may ask for that
        return os.open(path, flags | _FLAGS, 0o666)


_by_device: dict[int, bool] = {}


def _networked(device: int, path: str) -> bool:
    """Whether others than this kernel may write to this file system, as far as can be known."""
    known = _by_device.get(device)
    if known is None:
        try:
            known = not mount_of(path).one_kernel
        except OSError:
            known = True
        _by_device[device] = known
    return known


class LockFile:
    """An open lock file. `refused`: 0, or why it was opened for reading only; then it serves shared holds alone."""

    __slots__ = ("__weakref__", "at_gate", "device", "fd", "inode", "mode", "networked", "refused")

    def __init__(self, fd: int, refused: int, path: str) -> None:
        self.fd = fd
        self.refused = refused
        self.at_gate = False  # whether its holder is still seen at the gate
        status = os.fstat(fd)
        self.inode = status.st_ino
        self.device = status.st_dev
        self.mode = status.st_mode
        self.networked = _networked(self.device, path)
        _open.add(self)

    @classmethod
    def open(cls, path: str, *, create: bool = True) -> LockFile:
        """Raises FileNotFoundError without `create` when it is not there; LockUnavailable for all else."""
        refused = 0
        try:
            fd = _open_quietly(path, os.O_RDWR | (os.O_CREAT if create else 0))
        except OSError as error:
            if error.errno == errno.ENOENT and not create:
                raise
            if error.errno not in READ_ONLY:
                raise unavailable(path, error) from error
            refused = error.errno or errno.EACCES
            fd = cls._open_for_reading(path, error, create)
        file = cls(fd, refused, path)
        if not stat.S_ISREG(file.mode):
            file.close()
            raise LockUnavailable(f"{path} is no regular file, so it cannot be a lock; remove it")
        return file

    @staticmethod
    def _open_for_reading(path: str, refused: OSError, create: bool) -> int:
        try:
            return _open_quietly(path, os.O_RDONLY)
        except OSError as error:
            if error.errno == errno.ENOENT and not create:
                raise
            raise unavailable(path, refused) from error

    def read(self) -> bytes:
        """What the file says, at most record.SIZE bytes. Raises OSError.

        Under the lock that is what the last holder wrote, also where another machine wrote it: some clients of file
        servers (GlusterFS, measured) answer from pages that they kept from before.
        """
        if self.networked:
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(self.fd, record.SIZE, 0)

    def close(self) -> None:
        """Let go, since nobody else has this description. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(
                OSError
            ):  # a volume that went away says so here, when nothing is left to do
                os.close(fd)

    def __del__(self) -> None:
        self.close()  # an interrupt between locking and handing out must not leave a lock that nobody knows of

    def probe(self) -> bool:
        """Whether somebody holds the file exclusively now; also True when that cannot be found out.

        For the moment of the probe a free file is held shared, and whoever tries it exclusively just then is refused.
        """
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return False


def directory_of(path: str) -> str:
    return str(Path(path).parent)


def unavailable(path: str, error: OSError) -> LockUnavailable:
    """What an error of the system means for somebody who wants to lock, and what to do about it."""
    directory = directory_of(path)
    reason = errno.errorcode.get(error.errno or 0, "?")
    if error.errno in READ_ONLY:
        text = f"{path} cannot be locked, because this place is read-only here ({reason})"
        todo = "get write permission, or read without a lock what is published by renaming"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR):
        text, todo = f"the directory {directory} is not there ({reason})", "make it, or mount the volume"
    elif error.errno in _NO_LOCKS:
        text = f"{path} cannot be locked: this volume has no flock ({reason})"
        todo = "use another lock service: redis://, etcd:// or postgresql://"
    elif error.errno == errno.ELOOP:
        text, todo = f"{path} is a symbolic link", "remove it: a lock file is made where it stands"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        text, todo = (
            f"the volume of {directory} is full ({reason})",
            "make room: a lock keeps its token there",
        )
    else:
        text, todo = (
            f"{path} cannot be locked: {error.strerror} ({reason})",
            "see to the volume, then try again",
        )
    return LockUnavailable(f"{text}; {todo}")


def _in_child() -> None:
    """A description that a child keeps open would keep a dead parent's lock."""
    for file in list(_open):
        file.close()


os.register_at_fork(after_in_child=_in_child)
