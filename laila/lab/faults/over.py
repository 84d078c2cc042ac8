"""Something is mounted over a directory of one node, and nobody else sees it: its own disk, or a volume that it mounts.

In containers the node's fault agent does it, in the node's mount namespace; processes share this machine's files, and
there it is done to a directory that only this node uses. What was open before stays open, and writes to it still go
through: a node notices when it opens something.
"""

from __future__ import annotations

import abc
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from laila.errors import BadConfig, LabError
from laila.lab.drivers import mounts
from laila.lab.drivers.base import Driver, Lever, NodeState
from laila.lab.faults import hands
from laila.lab.faults.base import NotHealed, Option, Scene
from laila.lab.faults.beside import mounts_volume, reason, shell, written
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.struck import NodeFault

PROBE_KIB = 4
_ALIVE = (NodeState.RUNNING, NodeState.PAUSED)


class MountFault(NodeFault):
    """`act` is what the agent is asked for."""

    act: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {
        "volume": Option("", "this volume instead of the node's own disk")
    }

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        self._id = secrets.token_hex(6)
        self._volume = volume = str(self.option("volume"))
        self._places: dict[str, dict[str, Any]] = {}
        self._before: dict[str, str] = {}
        for name in self._nodes if volume else ():
            shared = [
                one
                for one in self.driver.topology.names
                if one != name and mounts_volume(self.driver, one, volume)
            ]
            if self.driver.volume(name, volume).read_only_of:
                raise BadConfig(f"{spec}: {name} mounts {volume} read-only as it is")
            if shared and _here(self.driver):
                raise BadConfig(
                    f"{spec}: processes share this machine's files, so {volume} would be struck for "
                    f"{', '.join(shared)} too; use --driver docker"
                )

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        return driver.lever(Lever.MOUNTS)

    def inject(self) -> dict[str, Any]:
        """Mount it over the directory of each node."""
        for name in self.nodes:
            path = self.place(name)
            depth = (
                mounts.depth(Path(path))
                if _here(self.driver)
                else int(hands.hand(self.scene, name).must("mounts", path=path)["depth"])
            )
            self._places[name] = {"path": path, "depth": depth}
            self._before[name] = self.look(name)
        self.remember(fault=self._id, places=self._places)
        for name, place in self._places.items():
            if _here(self.driver):
                self.mount_here(Path(place["path"]))
            else:
                hands.hand(self.scene, name).must(self.act, fault=self._id, path=place["path"])
        return {}

    @abc.abstractmethod
    def mount_here(self, place: Path) -> None:
        """What the agent does, done by this process. Raises LabError."""

    def heal(self) -> None:
        """Take it away again."""
        for name in self._places:
            if not _here(self.driver) and self.driver.reached(name):
                hands.hand(self.scene, name).must("clear", fault=self._id)
        self.undo(self.driver, {"places": self._places})

    def prove_healed(self) -> str:
        """Writes beside the nodes go through again. Raises NotHealed."""
        found = []
        for name in self.nodes:
            place = self.place(name)
            what = f"a write beside {name} in {place} to go through"
            took = self.until(lambda: not written(self.driver, name, place, PROBE_KIB), NotHealed, what)  # noqa: B023  asked at once
            found.append(
                f"{name}: {PROBE_KIB} KiB were written in {place} within {took:.1f} s, {self.look(name)}"
            )
        return "; ".join(found)

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """Leave what lay there before. The mounts of a container that does not live are gone with it."""
        for name, place in facts.get("places", {}).items():
            if _here(driver):
                mounts.uncover(Path(place["path"]), place["depth"])
                continue
            with hands.visiting(driver, name) as agent:
                if agent is not None:
                    agent.must("uncover", **place)

    def place(self, name: str) -> str:
        """The directory, as programs beside the node see it."""
        return self.driver.volume_path(name, self._volume) if self._volume else self.driver.state_path(name)

    def look(self, name: str) -> str:
        """What is seen there: the number of the file system, and how many names."""
        output = shell(self.driver, name, 'stat -c %d "$1" && ls -A "$1" | wc -l', self.place(name))
        if output.code:
            raise LabError(f"{self.spec}: {self.place(name)} of {name} cannot be looked at: {reason(output)}")
        device, names = output.stdout.split()
        return f"{int(names)} names on device {int(device)}"


def _here(driver: Driver) -> bool:
    return not driver.capabilities.own_filesystem
