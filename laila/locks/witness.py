"""Who holds a flock according to this kernel: /proc/locks, which also knows programs that leave no record.

It sees this host only, and of a container's neighbours nothing; so it adds to a record, and never contradicts one
from elsewhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_LOCKS = Path("/proc/locks")


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Processes of this host that hold a file by flock."""

    exclusive: int | None
    """Process id, or None for nobody seen."""
    shared: tuple[int, ...]


def witnessed(device: int, inode: int) -> Witnessed:
    """What the kernel shows for a file; nothing where it shows nothing."""
    try:
        lines = _LOCKS.read_text().splitlines()
    except OSError:  # not mounted, or hidden: then nobody is seen, which is all that is claimed
        lines = []
    return find(lines, device, inode)


def find(lines: list[str], device: int, inode: int) -> Witnessed:
    """Lines look like `1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF`; `1: -> FLOCK ...` are waiters."""
    place = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    exclusive, shared = None, set()
    for line in lines:
        words = line.split()
        if len(words) < 6 or words[1] != "FLOCK" or words[5] != place or not words[4].isdigit():
            continue
        if words[3] == "WRITE":
            exclusive = int(words[4])
        else:
            shared.add(int(words[4]))
    return Witnessed(exclusive, tuple(sorted(shared)))
