"""Names of which a replica lost something: a file each, which outlives the process.

In a file: the id of the mark, a random one for each loss, so that what settles one loss does not settle a later one;
and the reason, for people.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from pathlib import Path

from ..pools.disk import sync_directory
from .tags import Unsure

_MOST = 2000
_WRITTEN = re.compile(rb"([0-9a-f]{16})\n(.*)", re.DOTALL)


class Suspects:
    """The marks in `directory`. Raises OSError. What cannot be written there counts in this process all the same."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._prefix = f"{directory}/"
        self._unwritten: dict[str, Unsure] = {}

    def of(self, name: str) -> Unsure | None:
        """The mark of this name; None when it is not suspect."""
        if (unwritten := self._unwritten.get(name)) is not None:
            return unwritten
        try:
            descriptor = os.open(self._prefix + name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            data = os.read(descriptor, _MOST)
            found = _WRITTEN.fullmatch(data)
            if found is not None:
                return Unsure(found[2].decode("utf-8", "replace"), found[1].decode())
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        # On a full disk the mark was made without its id; the file itself is as much of one as there is.
        told = hashlib.sha256(b"%d %d" % (status.st_ino, status.st_ctime_ns) + data).hexdigest()[:16]
        return Unsure("what was here was damaged or lost", told)

    def mark(self, name: str, reason: str) -> None:
        """Durably, by a new mark. Raises OSError; this process keeps it in mind then."""
        mark = self.keep_in_mind(name, reason)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._prefix + name, flags, 0o666)
        try:
            with contextlib.suppress(OSError):  # on a full disk the mark counts without its reason
                os.truncate(descriptor, 0)
                os.write(descriptor, f"{mark.mark}\n{reason}".encode()[:_MOST])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(self._directory)
        self._unwritten.pop(name, None)

    def keep_in_mind(self, name: str, reason: str) -> Unsure:
        """For this process alone, where nothing can be written."""
        mark = self._unwritten[name] = Unsure(reason, secrets.token_hex(8))
        return mark

    def clear(self, name: str) -> None:
        """Take away the mark that `of` tells, and no other. A power cut may bring it back, which costs a comparison."""
        if self._unwritten.pop(name, None) is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._prefix + name)  # noqa: PTH108  # as above: a name that was checked

    def names(self) -> set[str]:
        try:
            found = os.listdir(self._directory)  # noqa: PTH208  # names are wanted
        except FileNotFoundError:
            found = []
        return {*found, *self._unwritten}
