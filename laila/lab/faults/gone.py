"""A disk or volume that is gone for one node: in its place is an empty directory that nobody can write."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from laila.errors import LabError
from laila.lab.drivers import mounts
from laila.lab.faults.base import NoBite
from laila.lab.faults.beside import written
from laila.lab.faults.over import PROBE_KIB, MountFault


class VolumeGone(MountFault):
    """As when the mount of a volume was lost, and only its mount point is left."""

    kind: ClassVar[str] = "volume-gone"
    summary: ClassVar[str] = (
        "the disk of a node, or a volume, is gone for it: an empty directory is in its place"
    )
    act: ClassVar[str] = "cover"

    def mount_here(self, place: Path) -> None:
        """See MountFault."""
        if why := mounts.empty(place):
            raise LabError(f"{self.spec}: {place} cannot be covered: {why}")

    def prove(self) -> str:
        """Beside each node other files are seen there, none, and a write is refused. Raises NoBite."""
        found = []
        for name in self.nodes:
            place = self.place(name)

            def gone() -> bool:
                refused = written(self.driver, name, place, PROBE_KIB)  # noqa: B023  asked at once
                return bool(refused) and self.look(name) != self._before.get(name)  # noqa: B023  as above

            self.until(gone, NoBite, f"the files of {name} in {place} to be gone")
            now, refused = self.look(name), written(self.driver, name, place, PROBE_KIB)
            if not now.startswith("0 names"):
                raise NoBite(f"{self.spec}: beside {name} there are still {now} in {place}")
            found.append(
                f"beside {name}, in {place}: {self._before[name]} before, now {now}, and a write gets {refused}"
            )
        return "; ".join(found)
