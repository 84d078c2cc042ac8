"""Where a directory of agents keeps what: the seed's file names for the seed's programs, everything else beside
them.

    agent_states.maif                            a summary: one text per registration, as the seed reads and writes it
    agent_states.lock                            the lock of whoever replaces a file here
    agents/<agent>.maif                          a registration: signed, replaced as a whole
    agents/<agent>.beat                          when the agent beat last; rewritten in place
    agents/.clock/<milliseconds>                 the volume's clock
    agents/.pending/<agent>.<sequence>           registrations that the summary does not have yet
    agents/.new/                                 files that are being made
    results/<task>.maif                          the first result of a task, as the seed reads and writes it
    results/.by-agent/<hh>/<task>/<agent>.maif   each agent's result; hh is the low byte of the crc32 of the task
    .laila/vouchers                              vouchers that were made anew
    .laila/set-aside/                            files that could not be believed and were in the way

Rules
- Names are checked before they become paths; names that begin with a dot are ours, because no agent or task has one.
- A directory that is not the one that was opened (its volume was unmounted) is out of reach, not empty.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from ..errors import ArtifactNotFound, BadName, UnsafeVolume
from ..names import check_name
from ..pools.disk import make_directory
from ..shared.admission import admit
from ..shared.place import Place
from ..shared.trouble import told
from .trouble import writing

SUFFIX, BEAT_SUFFIX = ".maif", ".beat"
SUMMARY = "agent_states"


class Layout:
    """Paths in one shared directory. Makes the directory when it is not there, or with `make=False` refuses.

    Raises StorageError, ArtifactNotFound.
    """

    def __init__(self, shared_path: str | os.PathLike[str], *, make: bool = True) -> None:
        if not make and not Path(shared_path).is_dir():
            raise ArtifactNotFound(
                f"{os.fspath(shared_path)} is no directory; give the one that the agents share"
            )
        with writing(f"use {os.fspath(shared_path)} as a directory of agents"):
            self._place = Place(shared_path)
        self.root = Path(self._place.root)
        self.summary = self.root / f"{SUMMARY}{SUFFIX}"
        self.agents = self.root / "agents"
        self.clock = self.agents / ".clock"
        self.pending = self.agents / ".pending"
        self.new = self.agents / ".new"
        self.results = self.root / "results"
        self.by_agent = self.results / ".by-agent"
        self.set_aside = self.root / ".laila" / "set-aside"

    def require(self) -> None:
        """Raises StorageError when the directory that was opened is out of reach."""
        self._place.require()

    def one_kernel(self) -> bool:
        """Whether one kernel has this volume to itself, and so makes all its file times."""
        return self._place.mount.one_kernel

    def admit(self) -> None:
        """Raises UnsafeVolume where locks on the volume are known not to exclude; warns where nobody has checked."""
        try:
            admit(self.root)
        except UnsafeVolume as error:
            raise UnsafeVolume(
                f"{self.root} is a volume on which locks do not exclude; keep the files there, but lock elsewhere: "
                'DistributedAgent(id, path, locks="redis://HOST"), or "etcd://HOST:2379", "postgresql://HOST/DB", '
                f'"kubernetes://NAMESPACE" (details: {error})',
                reason=error.reason,
            ) from error

    def make(self, *directories: Path) -> None:
        """Make directories, durably. Raises StorageError."""
        self.require()
        for directory in directories:
            with writing(f"make {directory}"):
                make_directory(directory)

    def registration(self, agent_id: str) -> Path:
        return self.agents / f"{check_name('agent', agent_id)}{SUFFIX}"

    def beat(self, agent_id: str) -> Path:
        return self.agents / f"{check_name('agent', agent_id)}{BEAT_SUFFIX}"

    def marker(self, agent_id: str, sequence: int) -> Path:
        return self.pending / f"{check_name('agent', agent_id)}.{sequence}"

    def first_result(self, task_id: str) -> Path:
        return self.results / f"{check_name('task', task_id)}{SUFFIX}"

    def task(self, task_id: str) -> Path:
        """The directory of all results of a task."""
        shard = f"{zlib.crc32(check_name('task', task_id).encode()) & 0xFF:02x}"
        return self.by_agent / shard / task_id

    def result(self, task_id: str, agent_id: str) -> Path:
        return self.task(task_id) / f"{check_name('agent', agent_id)}{SUFFIX}"


def names_in(directory: Path, suffix: str = "", *, checked: bool = True) -> list[str]:
    """The names there that end so, without the ending, sorted; none for no directory. `checked`: only such as
    `check_name` takes.

    Raises StorageError.
    """
    with told(f"list {directory}"):
        try:
            with os.scandir(directory) as entries:
                found = [entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
    end = len(suffix)
    names = [file[: len(file) - end] for file in found if file.endswith(suffix)]
    return sorted(name for name in names if not checked or _is_name(name))


def _is_name(name: str) -> bool:
    try:
        check_name("file", name)
    except BadName:
        return False
    return True
