"""Heartbeats: one small line per agent, rewritten in place.

A beat says up to which moment of the volume's clock the agent was certainly alive. It is no record: it is not
fsynced, and not signed. Whoever may write on the volume can fake one, and gains that a dead agent looks alive, or
the other way round; who is who and what was published does not hang on it.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..shared.trouble import told
from .trouble import writing
from .volumeclock import MOST

_LINE = re.compile(rb"laila beat 1 ([0-9a-f]{32}) ([0-9]{15}) ([0-9]{15}) ([0-9a-f]{8})\n")
_SIZE = 87
_ATTEMPTS = 4  # a line that is being rewritten is whole a moment later


@dataclass(frozen=True, slots=True)
class Beat:
    """`instance`: which run of the agent (32 hex digits); `count`: its beats so far; `at`: milliseconds of the
    volume.
    """

    instance: str
    count: int
    at: int

    def encode(self) -> bytes:
        words = f"laila beat 1 {self.instance} {self.count:015d} {self.at:015d}".encode("ascii")
        return words + b" %08x\n" % zlib.crc32(words)

    def write(self, path: Path) -> None:
        """Raises StorageError."""
        with writing(f"beat in {path}"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o666)
            try:
                os.pwrite(descriptor, self.encode(), 0)
            finally:
                os.close(descriptor)  # which is also what lets other clients of a network file system see it

    @classmethod
    def read(cls, path: Path) -> Beat | None:
        """The last beat; None when there is none that can be read. Raises StorageError."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(0.002)
            try:
                with told(f"read {path}"):
                    line = _content(path)
            except FileNotFoundError:
                return None
            found = _LINE.fullmatch(line)
            if (
                found
                and int(found[3]) <= MOST
                and int(found[4], 16) == zlib.crc32(line[: found.start(4) - 1])
            ):
                return cls(found[1].decode(), int(found[2]), int(found[3]))
        return None


def _content(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return os.read(descriptor, _SIZE + 1)
    finally:
        os.close(descriptor)
