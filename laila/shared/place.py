"""Where a store's files are, and whether the volume under it is still the one that was opened.

<shared>/<name>.maif                    the artifact, replaced by rename only
<shared>/<name>.lock                    its lock file
<shared>/.<name>.maif.<random>.tmp      a version being written
<shared>/.laila/vouchers                vouchers that were made anew
<shared>/.laila/removed/<name>.maif     what a removed artifact left: a signed version that says that it is gone
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadName, StorageError
from ..mounts import Mount, mount_of
from ..names import check_name
from ..pools.disk import make_directory, sync_directory
from .trouble import told

SUFFIX = ".maif"
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.maif\.[0-9a-f]{12}\.tmp", re.DOTALL)
_HOUSEKEEPING = ".laila"
_REMOVED = "removed"
_VOLATILE = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class _Root:
    device: int
    inode: int


class Place:
    """The directory of one store. Making one makes the directory, where that is possible and needed."""

    def __init__(self, shared_path: str | os.PathLike[str]) -> None:
        self.root = Path(shared_path).absolute()
        with told(f"use {self.root} as a store"):
            if not self.root.is_dir():
                make_directory(self.root)
            self._opened = self._look()
        self.mount = mount_of(self.root)
        self.key = _key(self.root, self.mount)

    def artifact(self, name: str) -> Path:
        """The path of an artifact. Raises BadName."""
        return self.root / f"{check_name('artifact', name)}{SUFFIX}"

    def lock(self, name: str) -> Path:
        """The path of an artifact's lock file."""
        return self.root / f"{check_name('artifact', name)}.lock"

    def removed(self, name: str) -> Path:
        """The path of what is left of a removed artifact."""
        return self.root / _HOUSEKEEPING / _REMOVED / f"{check_name('artifact', name)}{SUFFIX}"

    def names(self) -> list[str]:
        """Of every artifact that is there, sorted."""
        found = []
        self.require()
        with told(f"list {self.root}"), os.scandir(self.root) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) and _is_name(entry.name.removesuffix(SUFFIX)):
                    found.append(entry.name.removesuffix(SUFFIX))
        return sorted(found)

    def unfinished(self) -> dict[str, list[Path]]:
        """The paths of versions that are being written, or were when their writer was killed, by artifact."""
        found: dict[str, list[Path]] = {}
        with told(f"list {self.root}"), os.scandir(self.root) as entries:
            for entry in entries:
                match = _TEMPORARY.fullmatch(entry.name)
                if match and _is_name(match["name"]):
                    found.setdefault(match["name"], []).append(Path(entry.path))
        return found

    def make_housekeeping(self) -> None:
        """Make the directories of `removed`, durably; never through a link that somebody put there."""
        directory = self.root
        for part in (_HOUSEKEEPING, _REMOVED):
            directory = directory / part
            try:
                status = directory.lstat()
            except FileNotFoundError:
                make_directory(directory)
                continue
            if not stat.S_ISDIR(status.st_mode):
                raise StorageError(
                    f"{directory} is no directory; remove it: the store keeps its records there",
                    reason="ENOTDIR",
                )

    def sync(self) -> None:
        """Make names in the store's directory durable."""
        sync_directory(self.root)

    def require(self) -> None:
        """Raises StorageError when the directory that was opened is out of reach.

        The same volume that was mounted again is taken for the same.
        """
        try:
            now = self._look()
        except OSError as error:
            raise self._gone() from error
        if now == self._opened:
            return
        if _key(self.root, mount_of(self.root)) != self.key:
            raise self._gone()
        self._opened = now

    def _look(self) -> _Root:
        status = self.root.stat()
        return _Root(status.st_dev, status.st_ino)

    def _gone(self) -> StorageError:
        return StorageError(
            f"{self.root} is out of reach: {self.mount} is not mounted there any more; mount it, then try again",
            reason="ESTALE",
        )


def _is_name(name: str) -> bool:
    try:
        check_name("artifact", name)
    except BadName:
        return False
    return True


def _key(root: Path, mount: Mount) -> str:
    """What a store is known by on this machine: its path and the volume that is mounted there."""
    # The number of a device tells two file systems in memory apart, and is another one after each boot for others.
    device = mount.device if mount.fstype in _VOLATILE else ""
    facts = (str(root.resolve()), mount.fstype, mount.source, mount.root, device)
    return hashlib.sha256("\0".join(facts).encode("utf-8", "surrogateescape")).hexdigest()
