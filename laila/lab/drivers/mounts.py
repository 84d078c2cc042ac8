"""Volumes of plain processes: directories, and what only root can make of them: a size limit, a read-only mount.

Who is not root, or may not mount, gets a plain directory and the reason why it is one. Everything is mounted below one
directory, so what a run has mounted is found again by the kernel's own list, also by another process.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from laila.lab.topology import VolumeSpec

_MOUNTS = Path("/proc/self/mounts")
_WITHIN = 20.0


def make(below: Path, volumes: Sequence[VolumeSpec]) -> dict[str, str]:
    """A directory for each volume. Why those are not as they should be, by name."""
    hindrances = {}
    for volume in sorted(volumes, key=lambda volume: bool(volume.read_only_of)):
        place = below / volume.name
        place.mkdir(mode=0o700, parents=True)
        why = ""
        if volume.size_mib:
            options = f"size={volume.size_mib}m,mode=0700"
            why = _mount("-t", "tmpfs", "-o", options, "laila-lab", str(place))
        elif volume.read_only_of:
            original = str(below / volume.read_only_of)
            why = _mount("--bind", original, str(place)) or _mount("-o", "remount,bind,ro", str(place))
        if why:
            hindrances[volume.name] = why
    return hindrances


def undo(below: Path) -> list[str]:
    """Unmount all that is mounted below. What could not be."""
    for place in reversed(_mounted(below)):
        subprocess.run(["umount", str(place)], capture_output=True, check=False, timeout=_WITHIN)
    return [f"mount {place}" for place in _mounted(below)]


def _mount(*words: str) -> str:
    """Mount; why not, empty when it was done."""
    if shutil.which("mount") is None:
        return "there is no program `mount`"
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False, timeout=_WITHIN)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["mount failed"])[-1]


def _mounted(below: Path) -> list[Path]:
    """Mount points below a directory, in the order in which they were made."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []  # no /proc here, and nothing of ours is mounted
    places = [Path(_unescaped(line.split()[1])) for line in lines]
    return [place for place in places if place.is_relative_to(below)]


def _unescaped(text: str) -> str:
    """As the kernel writes a path there: a space is \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
