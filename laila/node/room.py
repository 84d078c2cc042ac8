"""Whether the disks that a node writes to can take anything, told before a request fails for want of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

LEAST = 1 << 20
"""Bytes: with less than this free, nothing that a peer stores is sure to be taken."""


def lacking(directories: Iterable[Path]) -> list[str]:
    """One sentence for each file system that is full, or may only be read; of those that cannot be asked, nothing:
    what fails there has its own words.
    """
    found: dict[int, str] = {}
    for directory in directories:
        try:
            device, room = directory.stat().st_dev, os.statvfs(directory)
        except OSError:
            continue
        free = room.f_bavail * room.f_frsize
        if room.f_flag & os.ST_RDONLY:
            found.setdefault(device, f"{directory} is mounted read-only: nothing can be stored there")
        elif free < LEAST:
            total = room.f_blocks * room.f_frsize
            found.setdefault(
                device,
                f"No space left on the disk of {directory}: {free >> 10} KiB of {total >> 20} MiB are free; make room "
                "there, or a larger disk",
            )
        elif room.f_files and not room.f_favail:
            found.setdefault(device, f"No space left on the disk of {directory}: it takes no more files")
    return list(found.values())
