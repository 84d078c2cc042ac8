"""Which mount a path lies on, and what makes it the same mount tomorrow or on another node.

The kernel tells the mount of an open file (`mnt_id` in /proc/self/fdinfo), so stacked, nested and bind mounts
need no guessing by prefix; /proc/self/mountinfo describes it. The identity leaves out what differs between two
looks at one volume: the mount point, read-only or not, and, for volumes that come over a network, the device
number, which every machine chooses anew. A FUSE file system keeps its cache options to itself; where its
process can be seen, they are read from its command line.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import BadValue, StorageError

ONE_KERNEL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs"})
"""File systems that one kernel has to itself: whoever locks there, locks with that kernel."""

MOUNTINFO = Path("/proc/self/mountinfo")
_PROC = Path("/proc")
_ESCAPE = re.compile(r"\\([0-7]{3})")
_MATTERS = {
    "nfs": {
        "vers", "nolock", "local_lock", "noac", "actimeo", "acregmin", "acregmax", "acdirmin", "acdirmax",
        "lookupcache", "soft", "softerr", "nosharecache", "nocto", "fsc",
    },
    "cifs": {"vers", "nobrl", "forcemandatorylock", "cache", "actimeo", "acregmax", "acdirmax", "nostrictsync"},
    "9p": {"trans", "version", "cache", "access"},
    "lustre": {"flock", "localflock", "noflock"},
    "ceph": {"noasyncreaddir", "nocto"},
}  # fmt: skip
_MATTERS |= {"nfs4": _MATTERS["nfs"], "smb3": _MATTERS["cifs"]}
_CLIENT = {
    "direct-io-mode", "attribute-timeout", "entry-timeout", "negative-timeout",
    "attr_timeout", "entry_timeout", "negative_timeout", "ac_attr_timeout", "auto_cache", "kernel_cache",
    "direct_io", "cache", "dir_cache", "dcache_timeout", "cache_timeout", "use_cache", "stat_cache_expire",
    "max_stat_cache_size", "enable_noobj_cache", "vfs-cache-mode", "dir-cache-time",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system. `options`: those that change locking or caching, sorted; `device`: major:minor;
    `root`: what of the file system is mounted (not `/` for bind mounts); `point`: where.
    """

    fstype: str
    source: str
    options: tuple[str, ...]
    device: str
    root: str = "/"
    point: str = ""

    @property
    def one_kernel(self) -> bool:
        """Whether one kernel has this file system to itself."""
        return self.fstype in ONE_KERNEL

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for two looks at one volume that was mounted the same way."""
        own = (self.device,) if self.one_kernel else ()
        return (self.fstype, self.source, ",".join(self.options), *own)

    def __str__(self) -> str:
        options = f" ({','.join(self.options)})" if self.options else ""
        return f"{self.fstype} {self.source}{options}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "fstype": self.fstype,
            "source": self.source,
            "options": list(self.options),
            "device": self.device,
            "root": self.root,
            "point": self.point,
        }

    @classmethod
    def from_dict(cls, value: Any) -> Mount:
        """Raises BadValue for what `to_dict` did not make."""
        if not isinstance(value, Mapping) or not isinstance(value.get("options"), list):
            raise BadValue("that describes no mount: a table with a list of options is expected")
        texts = [value.get(name) for name in ("fstype", "source", "device", "root", "point")]
        options = value["options"]
        if not all(isinstance(text, str) for text in (*texts, *options)):
            raise BadValue("that describes no mount: its fields are texts")
        fstype, source, device, root, point = texts
        return cls(fstype, source, tuple(options), device, root, point)  # type: ignore[arg-type]  # checked above


def mount_of(path: str | os.PathLike[str]) -> Mount:
    """The mount that `path`, or its nearest parent that exists, lies on. Raises StorageError."""
    try:
        where = _existing(Path(path))
        number, table = _mount_number(where), MOUNTINFO.read_bytes().decode("utf-8", "backslashreplace")
    except OSError as error:
        raise StorageError(
            f"the mount of {path} cannot be told ({error.strerror or error}); /proc is needed for that",
            reason="ENOENT",
        ) from error
    mounts = parse(table)
    found = mounts.get(number) or _by_prefix(mounts, str(where.resolve()))
    if found is None:
        raise StorageError(
            f"the mount of {path} is not in {MOUNTINFO}; is /proc of another namespace?", reason="ENOENT"
        )
    if found.fstype.startswith("fuse"):
        found = replace(found, options=tuple(sorted({*found.options, *_client_options(found.point)})))
    return found


def parse(table: str) -> dict[int, Mount]:
    """The mounts in the text of a `mountinfo` file, by their number. Lines that are none are left out."""
    found: dict[int, Mount] = {}
    for line in table.split("\n"):
        before, dash, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if not dash or len(left) < 6 or len(right) < 2 or not left[0].isdigit():
            continue
        root, point = _plain(left[3]), _plain(left[4])
        fstype, source = _plain(right[0]), _plain(right[1])
        options = {*left[5].split(","), *(right[2] if len(right) > 2 else "").split(",")}
        kept = {option for option in options if option.partition("=")[0] in _MATTERS.get(fstype, ())}
        found[int(left[0])] = Mount(fstype, source, tuple(sorted(map(_plain, kept))), left[2], root, point)
    return found


def _plain(text: str) -> str:
    """The kernel writes space, tab, newline, backslash and `#` as three octal digits."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next((place for place in (path, *path.parents) if place.exists()), Path("/"))


def _mount_number(path: Path) -> int:
    # "/." has an automount happen first
    descriptor = os.open(f"{path}/." if path.is_dir() else path, os.O_PATH | os.O_CLOEXEC)
    try:
        facts = (_PROC / "self/fdinfo" / str(descriptor)).read_bytes().decode()
    finally:
        os.close(descriptor)
    return next((int(line[7:]) for line in facts.splitlines() if line.startswith("mnt_id:")), -1)


def _by_prefix(mounts: Mapping[int, Mount], path: str) -> Mount | None:
    """For kernels that do not number the mounts of open files: the longest prefix, the last of equals."""
    best: Mount | None = None
    for mount in mounts.values():
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _client_options(point: str) -> set[str]:
    """Cache options of the process that serves the FUSE mount at `point`, as far as it can be seen."""
    kept: set[str] = set()
    for process in _PROC.iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended, or is not ours to look at
            words = (process / "cmdline").read_bytes().decode("utf-8", "backslashreplace").split("\0")
            if point in words[1:]:
                options = [
                    part for word in words[1:] for part in word.removeprefix("-o").lstrip("-").split(",")
                ]
                kept |= {option for option in options if option.partition("=")[0] in _CLIENT}
    return kept
