"""The ground of one check: the directory `PATH/.laila/probe-ID`, and nothing outside it.

Everything is opened relative to descriptors of directories and without following links, so that no name leads
away, whoever else may write on the volume. Files are for all users, since the nodes of a check may run as
different ones; the directory's name is random and it lives for seconds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import BadValue, Denied, StorageError
from ..pools.disk import reported

LAILA = ".laila"
STALE = 3600.0
"""Seconds, by the volume's clock, after which a directory that a killed check left is removed by the next."""
_PROBE = re.compile(r"[0-9a-f]{16}")
_LEFT = re.compile(r"probe-[0-9a-f]{16}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}
"""What file systems say whose directories cannot be synced, nor need it."""
_MAX_FILE = 1 << 20


def new_probe() -> str:
    """A name for a check that no other check has."""
    return secrets.token_hex(8)


def open_place(path: str, roots: Sequence[Path] | None = None) -> int:
    """A descriptor of the directory at `path`. With `roots`, it must be one of them or below, also after all
    symbolic links: Denied otherwise. Raises BadValue for what is no absolute path, StorageError.
    """
    if not path.startswith("/") or "\0" in path:
        raise BadValue(f"{path[:200]!r} is no absolute path; give the volume's path on that node")
    with reported(f"use the directory {path}"):
        place = os.open(path, _DIRECTORY)
    if roots is not None:
        real = Path(f"/proc/self/fd/{place}").readlink()  # of what was opened, whatever is at the path by now
        if not any(real.is_relative_to(root.resolve()) for root in roots):
            os.close(place)
            raise Denied(f"{path} is not below a volume that this node offers; list it under `volumes` there")
    return place


def open_laila(place: int, *, make: bool) -> int:
    """A descriptor of `.laila` in the directory `place`, which is made with the same rights. Raises OSError."""
    if make:
        return _make(LAILA, place, stat.S_IMODE(os.fstat(place).st_mode) & 0o1777)
    return os.open(LAILA, _DIRECTORY | os.O_NOFOLLOW, dir_fd=place)


def _make(name: str, parent: int, mode: int) -> int:
    """A descriptor of the directory, which is made with `mode`, whatever the umask, or was there."""
    made = True
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        made = False
    directory = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    if made:
        with contextlib.suppress(PermissionError, NotImplementedError):  # a volume without modes
            os.fchmod(directory, mode)
    return directory


def sync_names(directory: int) -> None:
    """Make the names in a directory durable, where that has a meaning. Raises OSError."""
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


class Ground:
    """One node's hands on the directory of a check. `close` lets go of it, `remove` removes it."""

    def __init__(self, path: str, probe: str, roots: Sequence[Path] | None = None) -> None:
        if not _PROBE.fullmatch(probe):
            raise BadValue("a check is named by 16 hexadecimal digits")
        self.path = path
        self._name = f"probe-{probe}"
        place = open_place(path, roots)
        try:
            with reported(f"write in {path}"):
                self._laila = open_laila(place, make=True)
        finally:
            os.close(place)
        try:
            with reported(f"write in {path}/{LAILA}"):
                self.directory = _make(self._name, self._laila, 0o777)  # see the top of this file
        except BaseException:
            os.close(self._laila)
            raise

    def open(self, name: str, flags: int) -> int:
        """A descriptor of one of the check's files. Raises BadValue, OSError."""
        if not _NAME.fullmatch(name):
            raise BadValue(f"{name[:80]!r} is no name for a file of a check")
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=self.directory)
        if flags & os.O_CREAT and not flags & os.O_EXCL:
            with contextlib.suppress(PermissionError):  # another user made it, and did this
                if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o666:
                    os.fchmod(descriptor, 0o666)
        return descriptor

    def read(self, name: str) -> bytes:
        """The file's bytes, opened anew. Raises OSError."""
        descriptor = self.open(name, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_MAX_FILE)

    def create(self, name: str) -> None:
        """Make the empty file. Raises FileExistsError when it is there, OSError."""
        os.close(self.open(name, os.O_WRONLY | os.O_EXCL | os.O_CREAT))

    def write(self, name: str, data: bytes) -> None:
        """Overwrite the file in place with `data` and nothing behind it. Raises OSError."""
        with os.fdopen(self.open(name, os.O_WRONLY | os.O_CREAT), "wb") as file:
            file.write(data)
            file.truncate()

    def publish(self, name: str, data: bytes) -> None:
        """A new file in place of the old one, as the stores do it: write, fsync, rename. Raises OSError."""
        fresh = f"{name}.{secrets.token_hex(4)}"
        descriptor = self.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            with contextlib.suppress(PermissionError):  # a volume without modes
                os.fchmod(descriptor, 0o666)
            os.fsync(descriptor)
        os.rename(fresh, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def link(self, source: str, name: str) -> None:
        """Raises OSError."""
        os.link(source, name, src_dir_fd=self.directory, dst_dir_fd=self.directory, follow_symlinks=False)

    def remove(self) -> None:
        """Remove the directory, and those that killed checks left. Another node may do the same at the same time."""
        now = 0.0
        with contextlib.suppress(OSError):  # another node has removed it already
            now = os.fstat(self.directory).st_mtime
        with reported(f"remove {self.path}/{LAILA}/{self._name}"):
            _remove(self._laila, self._name)
            for left in _names(self._laila):
                if _LEFT.fullmatch(left):
                    with contextlib.suppress(OSError):  # it may be another user's to remove
                        if now - os.stat(left, dir_fd=self._laila, follow_symlinks=False).st_mtime > STALE:
                            _remove(self._laila, left)

    def close(self) -> None:
        for descriptor in (self.directory, self._laila):
            with contextlib.suppress(OSError):  # such as ESTALE, of a volume that is gone
                os.close(descriptor)


def _remove(laila: int, name: str) -> None:
    for attempt in range(5):  # what other nodes still have open may stay for a moment under another name
        try:
            directory = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=laila)
        except FileNotFoundError:
            return
        try:
            for entry in _names(directory):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry, dir_fd=directory)
        finally:
            os.close(directory)
        try:
            os.rmdir(name, dir_fd=laila)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            time.sleep(0.1 * attempt)
    raise StorageError(
        f"the directory {name} of a check does not become empty; remove it", reason="ENOTEMPTY"
    )


def _names(directory: int) -> Iterator[str]:
    yield from sorted(os.listdir(directory))
