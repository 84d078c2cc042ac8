"""A disk or volume that one node can only read any more."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from laila.errors import LabError
from laila.lab.drivers import mounts
from laila.lab.faults.base import NoBite
from laila.lab.faults.beside import written
from laila.lab.faults.over import PROBE_KIB, MountFault


class ReadOnly(MountFault):
    """The same directory is mounted over itself, read-only."""

    kind: ClassVar[str] = "read-only"
    summary: ClassVar[str] = (
        "a node can only read its disk, or a volume: what it opens for writing gets EROFS"
    )
    act: ClassVar[str] = "remount"

    def mount_here(self, place: Path) -> None:
        """See MountFault."""
        if why := mounts.read_only(place, place):
            raise LabError(f"{self.spec}: {place} cannot be made read-only: {why}")

    def prove(self) -> str:
        """A real write beside each node gets EROFS. Raises NoBite."""
        found = []
        for name in self.nodes:
            place = self.place(name)
            what = f"a write beside {name} in {place} to get EROFS"
            self.until(lambda: written(self.driver, name, place, PROBE_KIB) == "EROFS", NoBite, what)  # noqa: B023  asked at once
            found.append(
                f"beside {name} a write of {PROBE_KIB} KiB in {place} gets EROFS, {self.look(name)} are read"
            )
        return "; ".join(found)
