"""A disk that is full: a ballast file beside the node takes all that is left, until a real write gets ENOSPC.

Only what the run itself made is filled: the nodes' own disks (`state_mib`) and volumes of limited size. Anything else
is somebody's disk, and is filled for nobody who did not write `really=1`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from laila.errors import BadConfig, LabError
from laila.lab.drivers import disks
from laila.lab.drivers.base import Driver, Lever, NodeState
from laila.lab.faults.base import NoBite, NotHealed, Option, Scene
from laila.lab.faults.beside import free_kib, mounts_volume, reason, shell, written
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.struck import NodeFault

_PROBE_KIB = 64
_SLACK = 1.05
"""How much larger than its name a file system may be and still be the run's own."""
_TOO_LARGE = (
    "the nodes' disks are in memory, and larger than half of what a node may have: make state_mib smaller"
)
_FILL = """
exec 3>>"$1"
fallocate -l "$2"K "$1" 2>/dev/null || true
for size in 65536 4096 512; do dd if=/dev/zero bs=$size >&3 || true; done
sync "$1" 2>/dev/null || true
"""
"""By one open file, so that a program whose controller was killed does not make it anew after it was removed."""


class DiskFull(NodeFault):
    """Of a volume that several nodes mount one of them fills it, and it is full for all."""

    kind: ClassVar[str] = "disk-full"
    summary: ClassVar[str] = "nothing more fits on the disk of a node, or on a volume"
    options: ClassVar[Mapping[str, Option]] = {
        "volume": Option("", "this volume instead of the nodes' own disks"),
        "really": Option(0, "1 fills also what the lab did not make: the disk of a machine", most=1),
    }

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        driver = scene.driver
        self._volume: str = self.option("volume") or ("" if _of_disks(driver) else _some_volume(driver))
        self._fillers = self._nodes
        if self._volume:
            mounting = tuple(name for name in scene.names if mounts_volume(driver, name, self._volume))
            named = [name for name in self._nodes if name in mounting]
            if not mounting or (spec.groups and not named):
                driver.volume(self._nodes[0], self._volume)  # raises, with those that it mounts
            self._fillers, self._nodes = (*named, *mounting)[:1], mounting
        self._size = _of_volume(driver, self._fillers[0], self._volume) if self._volume else _of_disks(driver)
        if not disks.awaited(driver):  # before the run has made its disks nobody knows
            self._need_own()
        self._ballast: dict[str, str] = {}

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        if _of_disks(driver) or _some_volume(driver):
            return ""
        return _TOO_LARGE if disks.limited(driver) else driver.lever(Lever.DISK)

    @classmethod
    def hindrance_of(cls, driver: Driver, spec: FaultSpec) -> str:
        """What is really meant is done anywhere."""
        return "" if spec.options.get("really") == "1" else cls.hindrance(driver)

    def inject(self) -> dict[str, Any]:
        """Fill them all."""
        self._need_own()
        for name in self._fillers:
            place = self._place(name)
            _, total = free_kib(self.driver, name, place)
            if self._size and total > self._size * 1024 * _SLACK:
                raise LabError(
                    f"{self.spec}: {place} of {name} has {total >> 10} MiB, and not the {self._size} that the lab "
                    "gave it; it is left alone"
                )
            self._ballast[name] = f"{place}/.lab-ballast-{secrets.token_hex(4)}"
        self.remember(ballast=self._ballast, volume=self._volume, nodes=list(self._nodes))
        for name in self._fillers:
            self._fill(name)
        return {}

    def prove(self) -> str:
        """A real write beside each node gets ENOSPC."""
        found = []
        for name in self._nodes:
            place = self._place(name)

            def full() -> bool:
                said = written(self.driver, name, place, _PROBE_KIB)  # noqa: B023  asked at once
                if not said and name in self._ballast:  # noqa: B023  asked at once
                    self._fill(name)  # noqa: B023  the node itself made room meanwhile
                return said == "ENOSPC"

            self.until(full, NoBite, f"a write beside {name} to get ENOSPC")
            free, total = free_kib(self.driver, name, place)
            found.append(
                f"beside {name} a write of {_PROBE_KIB} KiB in {place} gets ENOSPC ({free} of {total} KiB free)"
            )
        return "; ".join(found)

    def heal(self) -> None:
        """Take the ballast away."""
        self.undo(self.driver, {"ballast": self._ballast, "volume": self._volume, "nodes": self._nodes})

    def prove_healed(self) -> str:
        """The same write goes through."""
        found = []
        for name in self._nodes:
            place = self._place(name)
            what = f"a write beside {name} to go through"
            self.until(lambda: not written(self.driver, name, place, _PROBE_KIB), NotHealed, what)  # noqa: B023  asked at once
            free, total = free_kib(self.driver, name, place)
            found.append(
                f"beside {name} {_PROBE_KIB} KiB were written in {place} ({free} of {total} KiB free)"
            )
        return "; ".join(found)

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """Beside the node, or where it does not run on its disk, or beside another one that mounts the volume."""
        for name, path in facts.get("ballast", {}).items():
            alive = [one for one in (name, *facts["nodes"]) if driver.state(one) is NodeState.RUNNING]
            if alive and (alive[0] == name or facts["volume"]):
                output = shell(driver, alive[0], 'rm -f "$1"', path)
                if output.code:
                    raise LabError(
                        f"the ballast {path} beside {alive[0]} cannot be removed: {reason(output)}"
                    )
            elif (
                not facts["volume"]
                and driver.state(name) is NodeState.EXITED
                and not driver.lever(Lever.DISK)
            ):
                with driver.disks.opened(name) as place:
                    (place / path.rpartition("/")[2]).unlink(missing_ok=True)
            else:
                raise LabError(
                    f"the ballast {path} can be removed only while {name} runs; start it, and heal again"
                )

    def _need_own(self) -> None:
        """Raises BadConfig for what the lab has not made, unless that is meant."""
        if not self._size and not self.option("really"):
            raise BadConfig(
                f"{self.spec}: {self._foreign()}; the lab fills only what it made, unless you write really=1"
            )

    def _fill(self, name: str) -> None:
        path = self._ballast[name]
        free, _ = free_kib(self.driver, name, self._place(name))
        output = shell(self.driver, name, _FILL, path, str(max(1, free - 256)), timeout=600.0)
        if b"No space left" not in output.stderr:
            raise LabError(
                f"{self.spec}: filling {path} beside {name} was stopped by {reason(output)}, not by ENOSPC"
            )

    def _place(self, name: str) -> str:
        return self.driver.volume_path(name, self._volume) if self._volume else self.driver.state_path(name)

    def _foreign(self) -> str:
        if self._volume:
            why = self.driver.hindrance(self._volume) or "give it size_mib"
            return f"the volume {self._volume!r} has no limited size ({why})"
        return f"the state of {self._fillers[0]} is on no disk of its own ({self.driver.lever(Lever.DISK)})"


def _of_disks(driver: Driver) -> int:
    """MiB of each node's own disk; 0 when it has none, or one in memory that would not fit into the node's."""
    size, limit = driver.topology.state_mib, driver.topology.resources.memory_mib
    if not disks.limited(driver):
        return 0
    in_memory = bool(driver.lever(Lever.DISK)) and driver.capabilities.resource_limits
    return 0 if in_memory and size > limit // 2 else size


def _of_volume(driver: Driver, node: str, name: str) -> int:
    """MiB of a volume that the lab limited, and that can be written; else 0."""
    volume = driver.volume(node, name)
    return 0 if volume.read_only_of or driver.hindrance(name) else volume.size_mib


def _some_volume(driver: Driver) -> str:
    """The first that can be filled."""
    found = [
        (node, volume.name) for node in driver.topology.names for volume in driver.topology.volumes_of(node)
    ]
    return next((name for node, name in found if _of_volume(driver, node, name)), "")
