"""Limits of plain processes: a control group for each node that is limited, of cgroup v1 or v2. Needs root.

A group is made when a limit is asked for, and removed with the last limit; the node's processes go back to where they
came from. In v1 there is one hierarchy for memory and one for processes, so a group is up to two directories.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from laila.errors import LabError, LailaError
from laila.lab.drivers.base import Usage, wait_until

MEMORY, PIDS, IO = "memory", "pids", "io"
_ROOT = Path("/sys/fs/cgroup")
_CAME_FROM = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class _Files:
    """What the files of a controller are called."""

    limit: str
    now: str
    nothing: str
    """What means no limit."""


_V1 = {
    MEMORY: _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "-1"),
    PIDS: _Files("pids.max", "pids.current", "max"),
    IO: _Files("blkio.throttle.write_bps_device", "", ""),
}
_V2 = {
    MEMORY: _Files("memory.max", "memory.current", "max"),
    PIDS: _V1[PIDS],
    IO: _Files("io.max", "", ""),
}


def hindrance(*controllers: str) -> str:
    """Why processes cannot be limited here, and what to do about it; empty when they can."""
    if not _CAME_FROM.exists():
        return "limits of processes need Linux: control groups"
    if os.geteuid() != 0:
        return "limits of processes need root, who may make control groups: run the lab as root, or use --driver docker"
    for controller in controllers or (MEMORY, PIDS):
        root = _hierarchy(controller)
        if root is None:
            return f"this machine has no control groups of {controller} in {_ROOT}; use --driver docker"
        if not os.access(root, os.W_OK):
            return f"{root} cannot be written to (a container?): run the lab on the machine itself"
    return ""


@dataclass(frozen=True, slots=True)
class Group:
    """The control group of one node. `name` is the same in every hierarchy, and says to which run it belongs."""

    name: str

    def limit(self, controller: str, most: int | str, pids: Sequence[int]) -> None:
        """At most so many bytes, or processes and threads, or `writes`, for these and for what they start. Raises
        LabError.
        """
        root = _hierarchy(controller)
        if root is None:
            raise LabError(hindrance())
        try:
            if _unified():
                (root / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
            place = root / self.name
            place.mkdir(exist_ok=True)
            for pid in pids:
                _move(pid, place)
            (place / _files()[controller].limit).write_text(str(most), encoding="ascii")
        except OSError as error:
            raise LabError(f"the system does not limit {controller} of {self.name}: {error}") from error

    def unlimit(self, controller: str) -> None:
        """No limit any more. Its processes go back; in v2 they stay while the other controller limits them."""
        root = _hierarchy(controller)
        if root is None or not (place := root / self.name).exists():
            return
        try:
            for nothing in _nothing(controller, place):
                (place / _files()[controller].limit).write_text(nothing, encoding="ascii")
            if not _unified() or not self._limited(place):
                _dissolve(place, _home(controller))
        except OSError as error:
            raise LabError(f"the system still limits {controller} of {self.name}: {error}") from error

    def remove(self) -> list[str]:
        """With all limits; what could not be."""
        for controller in (MEMORY, PIDS, IO):
            try:
                self.unlimit(controller)
            except (LailaError, OSError) as error:
                return [str(error)]
        return []

    @property
    def places(self) -> list[Path]:
        """Its directories, as far as they were made."""
        roots = dict.fromkeys(root for root in map(_hierarchy, (MEMORY, PIDS, IO)) if root is not None)
        return [root / self.name for root in roots if (root / self.name).exists()]

    def entering(self, argv: Sequence[str]) -> list[str]:
        """The command that runs a program under the limits."""
        files = [str(place / "cgroup.procs") for place in self.places]
        if not files:
            return list(argv)
        enter = "".join(f'echo $$ >"${number}" && ' for number in range(1, len(files) + 1))
        return ["sh", "-c", f'{enter}shift {len(files)} && exec "$@"', "sh", *files, *argv]

    def usage(self, pids: Sequence[int]) -> Usage:
        """Of a node that consists of these processes."""
        return Usage(
            memory=sum(_resident(pid) for pid in pids),
            pids=self._number(PIDS, "now") or sum(_threads(pid) for pid in pids),
            memory_limit=self._number(MEMORY, "limit"),
            pids_limit=self._number(PIDS, "limit"),
        )

    def oom_kills(self) -> int:
        """How many of its processes the kernel killed for want of memory."""
        root = _hierarchy(MEMORY)
        for file in ("memory.events", "memory.oom_control"):
            if root is not None and (path := root / self.name / file).exists():
                words = dict(line.split() for line in path.read_text(encoding="ascii").splitlines())
                return int(words.get("oom_kill", 0))
        return 0

    def _limited(self, place: Path) -> bool:
        files = [_files()[one] for one in (MEMORY, PIDS, IO)]
        return any(
            (place / file.limit).exists()
            and (place / file.limit).read_text(encoding="ascii").strip() != file.nothing
            for file in files
        )

    def _number(self, controller: str, which: str) -> int:
        root = _hierarchy(controller)
        path = (root or _ROOT) / self.name / str(getattr(_files()[controller], which))
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            return 0
        return int(text) if text.isdigit() else 0


def writes(device: str, rate: int) -> str:
    """A limit of IO: so many bytes a second are written to a device (its numbers, such as 7:0); 0 is no limit."""
    return f"{device} wbps={rate or 'max'}" if _unified() else f"{device} {rate}"


def slow(pid: int, device: str, rate: int) -> None:
    """Limit what the group in which a process is, such as a container's own, writes to a device. Raises LabError."""
    place = _home(IO, Path(f"/proc/{pid}/cgroup"))
    if place == _hierarchy(IO):
        raise LabError(f"process {pid} is in no control group of its own")
    try:
        (place / _files()[IO].limit).write_text(writes(device, rate), encoding="ascii")
    except OSError as error:
        raise LabError(f"the system does not limit what process {pid} writes: {error}") from error


def descent(pid: int) -> list[int]:
    """A process, and all that descend from it."""
    found, parents = [pid], _parents()
    for one in found:  # which grows meanwhile
        found += [child for child, parent in parents.items() if parent == one and child not in found]
    return found


def of_run(prefix: str) -> list[Group]:
    """Those whose name begins so."""
    roots = {root for root in map(_hierarchy, (MEMORY, PIDS, IO)) if root is not None}
    return [Group(name) for name in sorted({path.name for root in roots for path in root.glob(f"{prefix}*")})]


def _unified() -> bool:
    return (_ROOT / "cgroup.controllers").exists()


def _files() -> dict[str, _Files]:
    return _V2 if _unified() else _V1


def _hierarchy(controller: str) -> Path | None:
    """Where groups of a controller are made; None when there is none."""
    if _unified():
        has = (_ROOT / "cgroup.controllers").read_text(encoding="ascii").split()
        return _ROOT if controller in has else None
    root = _ROOT / _v1_name(controller)
    return root if (root / "cgroup.procs").exists() else None


def _v1_name(controller: str) -> str:
    return "blkio" if controller == IO else controller


def _nothing(controller: str, place: Path) -> list[str]:
    """What is written to take a limit away; of IO once for each device that has one."""
    file = _files()[controller]
    if controller != IO:
        return [file.nothing]
    told = (place / file.limit).read_text(encoding="ascii")
    return [writes(line.split()[0], 0) for line in told.splitlines()]


def _home(controller: str, of: Path = _CAME_FROM) -> Path:
    """Where a process is (this one), and where what it starts belongs."""
    for line in of.read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if (not controllers and _unified()) or _v1_name(controller) in controllers.split(","):
            return (_hierarchy(controller) or _ROOT) / path.lstrip("/")
    return _hierarchy(controller) or _ROOT


def _move(pid: int, place: Path) -> None:
    try:
        (place / "cgroup.procs").write_text(str(pid), encoding="ascii")
    except ProcessLookupError:
        return  # it ended


def _dissolve(place: Path, target: Path) -> None:
    """Move everybody out until nobody is left, who may start others meanwhile, and remove it."""

    def empty() -> bool:
        left = (place / "cgroup.procs").read_text(encoding="ascii").split()
        for pid in left:
            _move(int(pid), target)
        return not left

    wait_until(empty, 5.0, f"{place} to be empty")
    place.rmdir()


def _parents() -> dict[int, int]:
    """Of every process of this machine."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="ascii", errors="replace")
        except OSError:
            continue  # it ended
        found[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    return found


def _resident(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _threads(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return 0
