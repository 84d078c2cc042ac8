"""What only root can mount: volumes of plain processes that are limited or read-only, and what lies over a directory.

Who is not root, or may not mount, gets a plain directory and the reason why it is one. Everything is mounted below one
directory, so what a run has mounted is found again by the kernel's own list, also by another process.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from laila.errors import LabError
from laila.lab.topology import VolumeSpec

_MOUNTS = Path("/proc/self/mounts")
_STATUS = Path("/proc/self/status")
_SYS_ADMIN = 21
_WITHIN = 20.0
EMPTY = "laila-lab-gone"
"""The device of an empty file system in the kernel's list of mounts."""


def hindrance() -> str:
    """Why nothing can be mounted by this process, and what to do about it; empty when it can."""
    if not _STATUS.exists():
        return "mounting over directories needs Linux"
    if os.geteuid() != 0:
        return "only root may mount: run the lab as root"
    told = _STATUS.read_text(encoding="ascii", errors="replace")
    if not int(told.partition("CapEff:")[2].split()[0], 16) >> _SYS_ADMIN & 1:
        return (
            "root may not mount here (a container without CAP_SYS_ADMIN?): run the lab on the machine itself"
        )
    return "" if program("mount") else "there is no program `mount`; install mount"


def make(below: Path, volumes: Sequence[VolumeSpec]) -> dict[str, str]:
    """A directory for each volume. Why those are not as they should be, by name."""
    hindrances = {}
    for volume in sorted(volumes, key=lambda volume: bool(volume.read_only_of)):
        place = below / volume.name
        place.mkdir(mode=0o700, parents=True)
        why = ""
        if volume.size_mib:
            options = f"size={volume.size_mib}m,mode=0700"
            why = mount("-t", "tmpfs", "-o", options, "laila-lab", str(place))
        elif volume.read_only_of:
            why = read_only(below / volume.read_only_of, place)
        if why:
            hindrances[volume.name] = why
    return hindrances


def undo(below: Path) -> list[str]:
    """Unmount all that is mounted there and below. What could not be."""
    for place in reversed(mounted(below)):
        unmount(place)
    return [f"mount {place}" for place in mounted(below)]


def read_only(original: Path, place: Path) -> str:
    """The same files once more at `place`, where nobody may write; both may be one, then it lies on top. Why not.

    It is made read-only before it is put there: nobody can open a file for writing in between, and keep it busy.
    """
    aside = place.parent / f".{place.name}.read-only"
    aside.mkdir(mode=0o700, exist_ok=True)
    why = mount("--bind", str(original), str(aside))
    if not why:
        why = mount("-o", "remount,bind,ro", str(aside)) or mount("--bind", str(aside), str(place))
        unmount(aside)
    aside.rmdir()
    return why


def empty(place: Path) -> str:
    """Nothing at `place`, and nobody may write there; what was there lies beneath. Why not."""
    return mount("-t", "tmpfs", "-o", "size=4k,mode=0555,ro", EMPTY, str(place))


def mount(*words: str) -> str:
    """Mount; why not, empty when it was done."""
    return run("mount", *words)


def unmount(place: Path, *words: str) -> str:
    """Take away what lies on top at this place; why not, empty when it was done."""
    return run("umount", *words, str(place))


def program(name: str) -> str | None:
    """Where one of the system's programs is; those for root lie in places that not every PATH names."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def run(name: str, *words: str) -> str:
    """Run one of the system's programs; why it failed, in a line, empty when it was done."""
    if (path := program(name)) is None:
        return f"there is no program `{name}`"
    try:
        done = subprocess.run([path, *words], capture_output=True, text=True, check=False, timeout=_WITHIN)
    except subprocess.TimeoutExpired:
        return f"{name} did not end within {_WITHIN:g} s"
    said = [line.strip() for line in done.stderr.splitlines() if line.strip() and "dmesg(1)" not in line]
    return "" if done.returncode == 0 else (said or [f"{name} failed"])[-1]


def mounted(below: Path, device: str = "") -> list[Path]:
    """Mount points at and below a directory, of this device if one is given, in the order in which they were made."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []  # no /proc here, and nothing of ours is mounted
    below, entries = below.resolve(), [line.split()[:2] for line in lines]
    places = [Path(_unescaped(place)) for what, place in entries if not device or what == device]
    return [place for place in places if place.is_relative_to(below)]


def depth(place: Path) -> int:
    """How many mounts lie at this place, one over the other."""
    place = place.resolve()
    return sum(one == place for one in mounted(place))


def uncover(place: Path, down_to: int) -> None:
    """Take mounts away from over this place until so many are left, whoever has files open there. Raises LabError."""
    while depth(place) > down_to:
        mount("-o", "remount,bind,rw", str(place))  # for who came in meanwhile and stays
        if why := unmount(place, "-l"):
            raise LabError(f"{place} cannot be uncovered: {why}")


def _unescaped(text: str) -> str:
    """As the kernel writes a path there: a space is \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
