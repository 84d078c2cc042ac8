"""Disks of nodes: each node's state on a file system of its own, of known size, that can be full and can lose power.

A disk is a sparse file of the run, formatted as ext4 and attached as a loop device. What a program wrote there without
fsync stays in the memory of that file system: nothing is written at a rename or because a journal's five seconds are
over (the options below), only the kernel's own flusher writes what is older than half a minute, as on any machine.
`cut` is what a power failure does: the file system stops at once and for good, and what it had not written is gone.
Mounted again it replays its journal. So no copy is made, and all of a disk is of one moment.

Everything is found again by the path of the file, which the kernel tells of each loop device: also by another process,
and when the record of the run is lost.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import laila.lab.drivers.mounts as mounts
from laila.errors import BadConfig, DeadlineExceeded, LabError
from laila.lab.drivers.base import Driver, wait_until

EXT4, TMPFS, DIRECTORY = "ext4", "tmpfs", "directory"
"""What a node's state lies on: a disk, memory of limited size that survives no power failure, or no limit at all."""
FACT = "disks"
"""In the run's record: `kind`, and `why` it is not ext4."""
OPTIONS = "noauto_da_alloc,commit=300"
LEAST_MIB = 16
"""Below this the journal of ext4 leaves no room for a node."""
_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, Linux 4.11
_AT_ONCE = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH: neither data nor journal is written any more
_BLOCKS = Path("/sys/block")
_WITHIN = 30.0


def hindrance() -> str:
    """Why no disks can be made on this machine, and what to do about it; empty when they can."""
    if why := mounts.hindrance():
        return f"disks of nodes are loop devices, which must be made and mounted: {why}"
    if not Path("/dev/loop-control").exists():
        return "this machine has no loop devices: modprobe loop, or give the container /dev/loop-control"
    for program, package in (("mkfs.ext4", "e2fsprogs"), ("losetup", "mount")):
        if mounts.program(program) is None:
            return f"there is no program `{program}`; install {package}"
    return ""


def missing(driver: Driver) -> str:
    """Why this driver's nodes have no disks that can lose power, for `Driver.lever`; empty when they have."""
    if not driver.topology.state_mib:
        return "the nodes have no disks of their own: give the topology state_mib, such as state_mib = 256"
    made = driver.run.facts.get(FACT)
    return hindrance() if made is None else str(made["why"])


def awaited(driver: Driver) -> bool:
    """Whether disks were asked for and the run is not prepared, so that it is not known what they will be."""
    return bool(driver.topology.state_mib) and FACT not in driver.run.facts


def limited(driver: Driver) -> bool:
    """Whether each node's state lies on something that is the run's own and can be full."""
    return driver.run.facts.get(FACT, {}).get("kind") in (EXT4, TMPFS)


@dataclass(frozen=True, slots=True)
class Disks:
    """The disks of one run, in files below `below`. It holds nothing: what there is, the kernel is asked."""

    below: Path
    size_mib: int

    # -- making and removing

    def make(self, names: Sequence[str], uid: int, gid: int, mode: int) -> str:
        """A formatted disk for each node, whose top directory belongs to that user. Why not (then none is left). Raises
        BadConfig for a size on which no node can live.
        """
        if self.size_mib < LEAST_MIB:
            raise BadConfig(f"state_mib must be {LEAST_MIB} or more, not {self.size_mib}")
        try:
            self.below.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in names:
                self._format(name)
                self._own(name, uid, gid, mode)
        except (LabError, OSError) as error:
            self.remove()
            return str(error)
        return ""

    def place(self, places: Mapping[str, Path]) -> dict[str, str]:
        """A disk for each node, mounted at its place for this user alone. Where that cannot be, memory of that size,
        and where that cannot be either, nothing. What it is, for the run's record.
        """
        why = hindrance() or self.make(tuple(places), os.getuid(), os.getgid(), 0o700)
        if not why:
            for name, place in places.items():
                self.mount(name, place)
            return {"kind": EXT4, "why": ""}
        words = ("-t", "tmpfs", "-o", f"size={self.size_mib}m,mode=0700", "laila-lab")
        if not any(mounts.mount(*words, str(place)) for place in places.values()):
            return {"kind": TMPFS, "why": why}
        for place in places.values():
            mounts.undo(place)
        return {"kind": DIRECTORY, "why": why}

    def remove(self) -> list[str]:
        """Unmount, detach and delete them all. What could not be. A device that somebody holds in a mount namespace of
        his own goes when that does, and does not count.
        """
        left = mounts.undo(self.below)
        for device in self._attached().values():
            self._unmount(device)
            mounts.run("losetup", "--detach", device)  # still mounted: goes with its last mount
        deadline = time.monotonic() + _WITHIN
        while self._devices() and time.monotonic() < deadline:
            time.sleep(0.02)
        left += self._devices()
        if not left:
            shutil.rmtree(self.below, ignore_errors=True)
        return left + ([str(self.below)] if self.below.exists() and not left else [])

    def remains(self) -> list[str]:
        return self._devices() + ([str(self.below)] if self.below.exists() else [])

    # -- one disk

    def device(self, name: str) -> str:
        """Its loop device, such as /dev/loop3; empty when it is attached to none."""
        return self._attached().get(self._file(name).resolve(), "")

    def number(self, name: str) -> str:
        """The numbers of its device, such as 7:3. Raises LabError when it is attached to none."""
        if not (device := self.device(name)):
            raise LabError(f"the disk of {name} is not attached")
        found = Path(device).stat().st_rdev
        return f"{os.major(found)}:{os.minor(found)}"

    def attach(self, name: str) -> str:
        """Its loop device, made when there is none. Raises LabError."""
        if device := self.device(name):
            return device
        why = mounts.run("losetup", "--find", "--show", str(self._file(name)))
        if not (device := self.device(name)):
            raise LabError(f"no loop device for the disk of {name}: {why or 'it was gone at once'}")
        return device

    def mount(self, name: str, place: Path) -> None:
        """Mount it there, if it is not; after `cut` this is where its journal is replayed. Raises LabError."""
        if place.resolve() in mounts.mounted(place):
            return
        device = self.attach(name)
        if why := mounts.mount("-t", "ext4", "-o", f"nosuid,nodev,{OPTIONS}", device, str(place)):
            raise LabError(f"cannot mount the disk of {name}: {why}")

    def unmount(self, name: str) -> None:
        """Take it away from wherever the lab mounted it, and wait until it is mounted nowhere, in no container either.
        Raises LabError that says who has it.
        """
        if not (device := self.device(name)):
            return

        def free() -> bool:
            self._unmount(device)
            return not _in_use(device)

        try:
            wait_until(free, _WITHIN, f"the disk of {name} ({device}) to be mounted nowhere")
        except DeadlineExceeded as error:
            raise LabError(f"{error}; it is held by {_holders(self.number(name))}") from None

    @contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """The disk of a node that does not run, mounted for a moment. Raises LabError."""
        place = self.below / f"{name}.opened"
        place.mkdir(exist_ok=True)
        self.mount(name, place)
        try:
            yield place
        finally:
            if why := mounts.unmount(place):
                raise LabError(f"cannot unmount the disk of {name}: {why}")

    def holds(self, name: str, place: Path) -> bool:
        """Whether this place lies on its disk. False also where this process may not look."""
        try:
            return bool(device := self.device(name)) and place.stat().st_dev == Path(device).stat().st_rdev
        except OSError:
            return False

    @staticmethod
    def cut(place: Path) -> None:
        """Power failure of the disk that is mounted at `place`: nothing is written to it any more, and what was not
        written is lost. Programs that are still there get EIO. Raises LabError.
        """
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(directory, _SHUTDOWN, struct.pack("I", _AT_ONCE))
        except OSError as error:
            raise LabError(f"the disk at {place} cannot lose power: {error.strerror}") from error
        finally:
            os.close(directory)

    # -- inside

    def _file(self, name: str) -> Path:
        return self.below / f"{name}.ext4"

    def _format(self, name: str) -> None:
        with self._file(name).open("xb") as file:
            file.truncate(self.size_mib << 20)
        # No blocks kept for root. Tables are written now, so that nothing but the node's own writes comes later; the
        # journal is not, because a new file is zeros already.
        extended = "lazy_itable_init=0,lazy_journal_init=1"
        words = ["-q", "-F", "-b", "4096", "-m", "0", "-E", extended, str(self._file(name))]
        if why := mounts.run("mkfs.ext4", *words):
            raise LabError(f"cannot format the disk of {name}: {why}")

    def _own(self, name: str, uid: int, gid: int, mode: int) -> None:
        with self.opened(name) as place:
            (place / "lost+found").rmdir()  # nobody but root could look into it
            os.chown(place, uid, gid)
            place.chmod(mode)

    def _devices(self) -> list[str]:
        """Those that stay attached, and those that are mounted here."""
        every = self._attached().values()
        mine = [one for one in every if not _goes_by_itself(one) or mounts.mounted(self.below.parent, one)]
        return [f"loop device {device}" for device in mine]

    def _unmount(self, device: str) -> None:
        for place in reversed(mounts.mounted(self.below.parent, device)):
            mounts.unmount(place)

    def _attached(self) -> Mapping[Path, str]:
        """Our files that are attached, and their devices."""
        below = self.below.resolve()
        return {path: device for path, device in _loops() if path.parent == below}


def _loops() -> Iterator[tuple[Path, str]]:
    """Every loop device of this machine: the file, also one that is deleted, and the device."""
    for backing in sorted(_BLOCKS.glob("loop*/loop/backing_file")):
        try:
            path = backing.read_text(encoding="utf-8", errors="surrogateescape").removesuffix("\n")
        except OSError:
            continue  # detached just now
        yield Path(path.removesuffix(" (deleted)")), f"/dev/{backing.parent.parent.name}"


def _goes_by_itself(device: str) -> bool:
    """Whether it is detached with its last mount."""
    try:
        return (_BLOCKS / Path(device).name / "loop" / "autoclear").read_text(encoding="ascii").strip() == "1"
    except OSError:
        return True  # it went just now


def _holders(number: str) -> str:
    """Who keeps a device from being let go: who sees it mounted elsewhere, and who has files open there."""
    found = []
    ours = Path("/proc/self/ns/mnt").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
            elsewhere = (process / "ns" / "mnt").readlink() != ours
            if elsewhere and f" {number} " in (process / "mountinfo").read_text("utf-8", "surrogateescape"):
                found.append(f"process {process.name} ({name}) in a mount namespace of its own")
            elif not elsewhere and any(_number(one) == number for one in (process / "fd").iterdir()):
                found.append(f"process {process.name} ({name}) with files open there")
        except OSError:
            continue  # it ended
    return ", ".join(found[:3]) or "nobody whom this process may see"


def _number(open_file: Path) -> str:
    try:
        device = open_file.stat().st_dev
    except OSError:
        return ""
    return f"{os.major(device)}:{os.minor(device)}"


def _in_use(device: str) -> bool:
    """Whether some mount holds it, in any namespace: a mounted file system holds its device for itself."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError:
        return True
    return False
