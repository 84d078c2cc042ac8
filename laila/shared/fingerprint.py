"""What tells a file that nobody touched from one that somebody may have changed, without reading it.

A change of a file moves its ctime, which no program can set; but the clock behind it ticks in steps, so a change
within the same step would not show (the "racy" problem that version control knows too). Therefore a fingerprint taken
sooner than `SETTLED` seconds after the file's last change proves nothing, and is marked so.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

SETTLED = 0.05
"""Seconds; several ticks of the clock that file times come from."""
SETTLED_COARSE = 2.5
"""The same where file times are whole seconds, or pairs of them."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Identity, size and times of a file. `unsettled`: seconds until a change would show, 0 when it would now."""

    device: int
    inode: int
    size: int
    mode: int
    changed_ns: int
    modified_ns: int
    unsettled: float = field(default=0.0, compare=False)

    @classmethod
    def of(cls, path: str | os.PathLike[str], *, now: float | None = None) -> Fingerprint:
        """Raises OSError. `now`: seconds since the epoch, by the clock that file times come from."""
        return cls.of_status(Path(path).lstat(), now=now)

    @classmethod
    def of_status(cls, status: os.stat_result, *, now: float | None = None) -> Fingerprint:
        """Of what a look at the file, not through a link, has just said."""
        age = (time.time() if now is None else now) - status.st_ctime
        coarse = status.st_ctime_ns % 1_000_000_000 == 0
        return cls(
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mode,
            status.st_ctime_ns,
            status.st_mtime_ns,
            min(max(0.0, (SETTLED_COARSE if coarse else SETTLED) - age), SETTLED_COARSE),
        )

    def proves(self, later: Fingerprint) -> bool:
        """Whether nothing changed from this one to a later one."""
        return not self.unsettled and self == later
