"""Locks by flock() on files of one directory: the default on one host, and on shared volumes that were probed.

A lock named `report` is the file `report.lock`, which plain `fcntl.flock` programs may lock as well, and
`.report.gate` beside it.

What flock gives: the kernel, or the file server, lets one holder in; a holder that dies is out at once (a client of
a file server that is cut off: when the server's lease on it ends). A stopped holder keeps it; nobody overtakes it
on one host. What it does not give:
- On some volumes a successful call excludes nobody on other nodes (s3fs, sshfs, NFS with `nolock` or `local_lock`,
  SMB with `nobrl`, bind mounts of Docker Desktop). Run `laila volume check` from two nodes first.
- A holder is not told when a file server gave its lock away. `check` sees a removed or replaced lock file, a
  greater token, and I/O errors; between `check` and the next write everything may happen, which is what tokens are
  for.
- A waiter whose time was up may still get the lock for an instant, and lets go; who does not wait at all may find it
  held just then.
- Programs that lock the file without laila take no token; behind them, tokens tell nothing.
- A wait without a timeout is the kernel's: Ctrl-C in the main thread ends it, closing the service does not.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import time
import weakref
from pathlib import Path
from typing import ClassVar

from laila.errors import BadConfig

from . import record
from .base import Capabilities, Hold, Holder, Lock, LockService
from .directory import Directory
from .lockfile import LockFile
from .place import Place
from .waiting import Wait

_KEPT_NAMES = 128
"""Names whose files stay open between acquisitions, per service."""


class FlockHold(Hold):
    """A lock file, locked through a description of its own. The top of this module says what that is worth."""

    __slots__ = ("file", "place")

    file: LockFile
    place: Place

    def _find_loss(self) -> str:
        return self.place.find_loss(self.file, self.token)

    def _give_back(self) -> None:
        self.place.release(self.file)


class FlockLock(Lock):
    """One lock file, exclusive or shared; NOT re-entrant. The top of this module says what flock does not promise."""

    def __init__(self, service: FlockService, place: Place, timeout: float | None) -> None:
        super().__init__(service, place.name, timeout)
        self.place = place

    def _take_now(self, shared: bool, purpose: str) -> Hold | None:
        file = self.place.take_now(shared)
        return None if file is None else self._held(file, shared, purpose)

    def _take(self, wait: Wait, shared: bool, purpose: str) -> Hold | None:
        file = self.place.take(wait, shared)
        return None if file is None else self._held(file, shared, purpose)

    def _held(self, file: LockFile, shared: bool, purpose: str) -> FlockHold:
        since = time.time()
        token = self.place.last_token(file) if shared else self.place.stamp(file, since, purpose)
        hold = FlockHold(self, token, shared, since, purpose)
        hold.file = file
        hold.place = self.place
        return hold

    def holder(self) -> Holder | None:
        """Who holds it exclusively: by the record, or by this kernel's list where a program of this host left none."""
        self.service._require_open()
        return self.place.holder()

    def in_the_way(self) -> str:
        holder = self.holder()
        if holder is not None:
            return str(holder)
        pids = self.place.witnessed().shared
        return f"shared holders on this host: pid {', '.join(map(str, pids))}" if pids else ""

    def close(self) -> None:
        """Close the descriptors that are kept for the next acquisition, which then opens the file anew."""
        self.place.close_idle()


class FlockService(LockService):
    """Locks as files `<directory>/<name><suffix>`. The directory is made when it is missing and can be made.

    Raises BadConfig for a suffix that is no end of a file's name. Acquiring raises LockUnavailable when the
    directory is not there, the volume has no flock, or is read-only here (then see `readable_only`).
    """

    kind: ClassVar[str] = "flock"
    capabilities: ClassVar[Capabilities] = Capabilities(shared=True, leased=False, survives_holder_pause=True)

    def __init__(
        self, directory: str | os.PathLike[str], *, suffix: str = ".lock", node: str = "", create: bool = True
    ) -> None:
        if not suffix or "/" in suffix or "\0" in suffix or len(suffix.encode()) > 100:
            raise BadConfig(f"{suffix!r} cannot end the name of a lock file; use something like '.lock'")
        self.directory = Path(directory).absolute()
        self._suffix = suffix
        self._watched = Directory(self.directory)
        self._mutex = threading.Lock()
        self._places: weakref.WeakValueDictionary[str, Place] = weakref.WeakValueDictionary()
        self._kept: collections.OrderedDict[str, Place] = collections.OrderedDict()
        super().__init__(node)
        self._writer = record.Writer(Holder.here(self.node, 0, 0.0, ""))
        if create:
            with contextlib.suppress(OSError):  # where it cannot be made and is not there, acquiring says so
                self.directory.mkdir(parents=True, exist_ok=True)

    @property
    def readable_only(self) -> bool:
        """Whether this process can read the directory but not write it: a read-only mount, or no permission."""
        return os.access(self.directory, os.R_OK | os.X_OK) and not os.access(self.directory, os.W_OK)

    def _make(self, name: str, timeout: float | None) -> Lock:
        with self._mutex:
            place = self._places.get(name)
            if place is None:
                path = f"{self.directory}/{name}{self._suffix}"
                place = Place(name, path, f"{self.directory}/.{name}.gate", self._watched, self._writer)
                self._places[name] = place
            self._kept[name] = place
            self._kept.move_to_end(name)
            old = self._kept.popitem(last=False)[1] if len(self._kept) > _KEPT_NAMES else None
        if old is not None:
            old.close_idle()
        return FlockLock(self, place, timeout)

    def _shut(self) -> None:
        with self._mutex:
            places = list(self._places.values())
            self._kept.clear()
        for place in places:
            place.close()
        self._watched.close()

    def _after_fork(self) -> None:
        self._mutex = threading.Lock()
        self._watched.after_fork()
        self._writer = record.Writer(Holder.here(self.node, 0, 0.0, ""))
        for place in list(self._places.values()):
            place.after_fork(self._writer)

    def __repr__(self) -> str:
        return f"<FlockService {str(self.directory)!r}{' closed' if self.closed else ''}>"
