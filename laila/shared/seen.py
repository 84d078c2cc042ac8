"""The memory of the highest versions seen, so that an older one put back is refused.

Strategy: a directory per name, and in it an empty file called `<sequence>.<root>` for what was seen. A new version
adds its file and then removes the lower ones. So there is nothing to tear, to lock or to merge: whichever process
comes last, and wherever it is killed, the highest stays. Each reader asks for the highest *before* it looks at the
volume: what it finds there may be newer, never older. The memory is shared by all processes of the user (or node) and
outlives them; it is not fsynced, so a power cut may take the last seconds of it.

Rule: the same sequence with another root is a fork, two histories under one name, of which one is not to be believed.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from ..errors import RolledBack
from ..pools.disk import reported

_MARK = re.compile(r"([1-9][0-9]{0,18})\.([0-9a-f]{8,128})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A version of a name: its sequence number and its Merkle root (hex)."""

    sequence: int
    root: str


class Seen:
    """What this process and its like have seen of one store; safe under threads and processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._highest: dict[str, Mark] = {}
        self._mutex = threading.Lock()

    def highest(self, name: str) -> Mark | None:
        """The newest version seen by any process that shares this memory. Raises StorageError."""
        kept = max(self._kept(name), default=None)
        with self._mutex:
            known = self._highest.get(name)
            if kept is not None and (known is None or kept.sequence > known.sequence):
                self._highest[name] = known = kept
            return known

    def note(self, name: str, mark: Mark) -> None:
        """Remember a version that was verified; an older one than the highest changes nothing.

        Raises RolledBack when another version with its number was seen, StorageError when it cannot be kept.
        """
        with self._mutex:
            if self._highest.get(name) == mark:
                return
        kept = self._kept(name)
        with self._mutex:
            marks = [*kept, *([self._highest[name]] if name in self._highest else [])]
        other = next((one for one in marks if one.sequence == mark.sequence and one != mark), None)
        if other is not None:
            raise forked(name, other, mark)
        if any(one.sequence > mark.sequence for one in marks):
            return
        with reported(f"remember version {mark.sequence} of {name!r} in {self.directory}"):
            self._keep(name, mark, kept)
        with self._mutex:
            known = self._highest.get(name)
            if known is None or known.sequence < mark.sequence:
                self._highest[name] = mark

    def forget(self, name: str) -> None:
        """Know nothing of this name any more: for an operator who put an old version back on purpose."""
        with reported(f"forget what was seen of {name!r} in {self.directory}"):
            for mark in self._kept(name):
                self._file(name, mark).unlink(missing_ok=True)
        with self._mutex:
            self._highest.pop(name, None)

    def _file(self, name: str, mark: Mark) -> Path:
        return self.directory / name / f"{mark.sequence}.{mark.root}"

    def _kept(self, name: str) -> list[Mark]:
        try:
            files = os.listdir(self.directory / name)  # noqa: PTH208  # names are wanted, and often
        except FileNotFoundError:
            return []
        except OSError:
            with reported(f"read what was seen of {name!r} in {self.directory}"):
                raise
        found = [_MARK.fullmatch(file) for file in files]
        return [Mark(int(match[1]), match[2]) for match in found if match]

    def _keep(self, name: str, mark: Mark, kept: list[Mark]) -> None:
        file = self._file(name, mark)
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.touch(mode=0o600)
        for lower in kept:
            if lower.sequence < mark.sequence:
                self._file(name, lower).unlink(missing_ok=True)


def forked(name: str, known: Mark, mark: Mark) -> RolledBack:
    """The error for two versions with one number."""
    return RolledBack(
        f"there are two versions {mark.sequence} of {name!r}: root {known.root[:16]} was seen before, "
        f"{mark.root[:16]} is there now; one was written by a holder that was overtaken, or put there by somebody: "
        "find out which one is right, put it back, and call forget_seen() if it is not the one seen first"
    )


def rolled_back(name: str, known: Mark, sequence: int, path: str) -> RolledBack:
    """The error for a version older than one that was seen."""
    found = f"version {sequence}" if sequence else "a file without a version"
    return RolledBack(
        f"{path} holds {found} of {name!r}, but version {known.sequence} was seen before: an older file was put back, "
        "or this volume shows stale data; restore the newest one, or call forget_seen() if the old one is meant",
        path=path,
    )
