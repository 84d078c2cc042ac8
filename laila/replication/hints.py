"""What this process, or node, owes to whom: names of which a replica did not take the newest version.

Strategy: a directory per replica, and in it an empty file called as the name that is owed. So there is nothing to tear
or to lock, several processes may share it, and it outlives them. Beyond `MOST` names a single file stands for all:
comparing the digest trees is cheaper then.

Rules
- Who pays takes the debt first, by renaming its file. What is owed anew meanwhile is a new file, and stays when the
  first one is paid. A debt that was taken by a process that died is still there, under the name that it was given.
- The files are not synced: a power cut may take the last seconds. Comparing replicas finds what was forgotten here.
- To owe never fails: it is done beside a write that succeeded. When it cannot be kept on disk, everything is owed in
  this process' memory, and `trouble` says why.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from ..errors import StorageError
from ..names import check_name
from ..pools.disk import reported

MOST = 100_000
"""Names owed to one replica, beyond which everything is."""
EVERYTHING = ".all"
"""Instead of a name; no name begins with a dot."""
_TAKEN = re.compile(r"\.([0-9a-f]{8})\.(.+)", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Debt:
    """One name that was taken to be paid; `name` is EVERYTHING for a whole comparison."""

    replica: str
    name: str
    file: str
    """What it is called until it is paid; empty when it is in memory only."""

    @property
    def everything(self) -> bool:
        return self.name == EVERYTHING


class Hints:
    """The debts kept in `directory`, which is made when the first one is. Safe under threads and processes."""

    def __init__(self, directory: str | os.PathLike[str], *, most: int = MOST) -> None:
        self.directory = Path(directory)
        self.trouble: StorageError | None = None
        self._most = most
        self._mutex = threading.Lock()
        self._counts: dict[str, int] = {}
        self._unkept: set[str] = set()

    def owe(self, replica: str, name: str) -> None:
        """This replica lacks the newest version of `name`. Raises BadName."""
        check_name("replica", replica)
        check_name("artifact", name)
        try:
            with reported(f"keep in {self.directory} what a replica is owed"):
                self._owe(replica, name)
        except StorageError as error:
            with self._mutex:
                self.trouble = error
                self._unkept.add(replica)

    def owe_everything(self, replica: str) -> None:
        """This replica lacks nobody knows what. Raises BadName."""
        check_name("replica", replica)
        with self._mutex:
            self._unkept.add(replica)
        with contextlib.suppress(StorageError), reported("owe everything"):
            self._touch(replica, EVERYTHING)
            with self._mutex:
                self._unkept.discard(replica)

    def owed(self) -> dict[str, list[str]]:
        """Names by replica, sorted; `[EVERYTHING]` where a whole comparison is due. Raises StorageError."""
        owed = {replica: sorted({name for name, _ in self._files(replica)}) for replica in self._replicas()}
        with self._mutex:
            owed |= {replica: [EVERYTHING] for replica in self._unkept}
        return {
            replica: [EVERYTHING] if EVERYTHING in names else names
            for replica, names in sorted(owed.items())
            if names
        }

    def take(self, replica: str, count: int = 256) -> list[Debt]:
        """Debts to pay now, at most so many; only the one for everything when there is one. Raises StorageError."""
        with self._mutex:
            unkept = replica in self._unkept
            self._unkept.discard(replica)
        files = sorted(self._files(replica))
        if unkept or any(name == EVERYTHING for name, _ in files):
            # The names are part of it: a comparison that begins after they were taken finds them, too.
            count = len(files)
        debts = [Debt(replica, EVERYTHING, "")] if unkept else []
        for name, file in files[:count]:
            taken = f".{secrets.token_hex(4)}.{name}"
            with reported(f"take {name!r} from what is owed in {self.directory}"):
                try:
                    (self.directory / replica / file).rename(self.directory / replica / taken)
                except FileNotFoundError:  # somebody else pays it
                    continue
            debts.append(Debt(replica, name, taken))
        with self._mutex:
            self._counts.pop(replica, None)
        return debts

    def paid(self, debt: Debt) -> None:
        """The replica had this name, or a newer version, after the debt was taken. Raises StorageError."""
        if debt.file:
            with reported(f"cross out {debt.name!r} in {self.directory}"):
                (self.directory / debt.replica / debt.file).unlink(missing_ok=True)

    def unpaid(self, debt: Debt) -> None:
        """It could not be paid. What is on disk is still owed; what is in memory only is again."""
        if not debt.file:
            with self._mutex:
                self._unkept.add(debt.replica)

    def drop(self, replica: str) -> None:
        """It is no member any more."""
        with self._mutex:
            self._unkept.discard(replica)
            self._counts.pop(replica, None)
        shutil.rmtree(self.directory / check_name("replica", replica), ignore_errors=True)

    def _owe(self, replica: str, name: str) -> None:
        if self._path(replica, EVERYTHING).exists():
            return
        if self._path(replica, name).exists():
            # Renamed away in between, it is being paid only from now on: that includes what is owed here.
            return
        with self._mutex:
            count = self._counts.get(replica)
        if count is None:
            count = len(self._files(replica))
        if count < self._most:
            self._touch(replica, name)
            with self._mutex:
                self._counts[replica] = self._counts.get(replica, count) + 1
            return
        covered = self._files(replica)
        self._touch(replica, EVERYTHING)
        for other, file in covered:
            if other == file:  # one that was taken is crossed out by who took it
                self._path(replica, file).unlink(missing_ok=True)
        with self._mutex:
            self._counts.pop(replica, None)

    def _touch(self, replica: str, name: str) -> None:
        path = self._path(replica, name)
        try:
            path.touch(mode=0o600)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)

    def _path(self, replica: str, name: str) -> Path:
        return self.directory / replica / name

    def _replicas(self) -> list[str]:
        with reported(f"read what is owed in {self.directory}"):
            try:
                return [entry.name for entry in os.scandir(self.directory) if entry.is_dir()]
            except FileNotFoundError:
                return []

    def _files(self, replica: str) -> list[tuple[str, str]]:
        """Name and file of each debt."""
        with reported(f"read what is owed in {self.directory}"):
            try:
                files = os.listdir(self.directory / replica)  # noqa: PTH208  # names are wanted
            except FileNotFoundError:
                return []
        taken = ((_TAKEN.fullmatch(file), file) for file in files)
        return [(match[2] if match else file, file) for match, file in taken]
