"""`laila volume probe` on volumes that are broken on purpose: the argument says how.

Real volumes like these need a container (s3fs, sshfs, GlusterFS with caches); what each does wrong is small enough
to be done to a good one here, below the steps, which do not know.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from laila.volumes import agent, locking, races, steps
from laila.volumes.ground import Ground
from laila.volumes.races import HELD

KEPT = 0.2
"""Seconds that a cache keeps what it has read."""

take, read, open_file = locking.take, Ground.read, Ground.open


def no_lock(descriptor: int, how: str, mode: str, first: int = 0) -> bool:
    """Every lock is granted: sshfs, NFS with nolock."""
    return True


def no_flock(descriptor: int, how: str, mode: str, first: int = 0) -> bool:
    """Only byte ranges exclude: flock on GPFS."""
    return how == locking.FLOCK or take(descriptor, how, mode, first)


def refuse_locks(descriptor: int, how: str, mode: str, first: int = 0) -> bool:
    """No lock is to be had at all."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def leaky_lock(descriptor: int, how: str, mode: str, first: int = 0) -> bool:
    """Excludes when tried once, and lets somebody in while others hammer."""
    return take(descriptor, how, mode, first) or (mode == locking.EXCLUSIVE and time.monotonic_ns() % 7 == 0)


spared: list[object] = []
cache: dict[str, tuple[float, bytes]] = {}


def stale_read(self: Ground, name: str) -> bytes:
    """What was read is kept for some time, whatever others write: attribute and entry caches."""
    at, data = cache.get(name, (-KEPT, b""))
    if time.monotonic() - at > KEPT:
        at, data = time.monotonic(), read(self, name)
        cache[name] = (at, data)
    return data


def open_anyway(self: Ground, name: str, flags: int) -> int:
    """O_EXCL is not passed on: s3fs."""
    return open_file(self, name, flags & ~os.O_EXCL)


def overwrite(self: Ground, name: str, data: bytes) -> None:
    """A rename that copies: the file is seen half written."""
    with os.fdopen(self.open(name, os.O_WRONLY | os.O_CREAT), "wb", buffering=0) as file:
        half = len(data) // 2
        file.write(data[:half])
        time.sleep(HELD * 4)
        file.write(data[half:])
        file.truncate()


def no_rename(self: Ground, name: str, data: bytes) -> None:
    """Nothing can be renamed over what is there."""
    os.close(self.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    self.write(name, data)


def spare(process: object) -> None:
    """A killed holder keeps its lock, as one does whose machine went away without a word."""
    process.returncode = -9  # type: ignore[attr-defined]
    spared.append(process)


def no_link(self: Ground, source: str, name: str) -> None:
    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


def break_it(how: str) -> None:
    if how in ("no_lock", "no_flock", "refuse_locks"):
        races.take = steps.take = globals()[how]
    elif how == "leaky_lock":
        races.take = leaky_lock
    elif how == "stale_read":
        Ground.read = stale_read  # type: ignore[method-assign]
    elif how == "open_anyway":
        Ground.open = open_anyway  # type: ignore[method-assign]
    elif how in ("overwrite", "no_rename"):
        Ground.publish = globals()[how]  # type: ignore[method-assign]
    elif how == "no_link":
        Ground.link = no_link  # type: ignore[method-assign]
    else:
        assert how == "spare"
        steps._end = spare


if __name__ == "__main__":
    break_it(sys.argv[1])
    sys.exit(agent.run())
