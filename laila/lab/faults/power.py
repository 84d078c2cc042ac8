"""The power of nodes fails: all that was written and not fsynced is gone. This is what catches a node that says "done"
before it is.

The nodes are frozen, so that none of them says anything any more; then their disks stop at once (`Disks.cut`), and only
then the nodes are killed. Proven by a witness on each disk, written right before: what was fsynced must be there when
the disk is mounted again, byte for byte, and what was not must be gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from laila.errors import LabError
from laila.lab.drivers.base import Driver, Lever, NodeState
from laila.lab.faults.base import NoBite, NotHealed, Scene
from laila.lab.faults.beside import fsync_seconds
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.struck import NodeFault, start_fallen

_UNDISTURBED = 2.0
"""Seconds in which the nodes write and nobody else fsyncs: a witness's own fsync would keep what they did not."""
_WITNESS = ".lab-witness"
_SIZE = 65536


class PowerLoss(NodeFault):
    """All nodes at once, unless it is said which. Healing it is power: the nodes start on what their disks have."""

    kind: ClassVar[str] = "power-loss"
    summary: ClassVar[str] = (
        "the power of nodes fails, of all when none is named: what was not fsynced is gone"
    )
    breaks_clients: ClassVar[bool] = True

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        if not spec.groups:
            self._nodes = scene.names
        self._witnesses: dict[str, _Witness] = {}

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        return driver.lever(Lever.DISK)

    def inject(self) -> dict[str, Any]:
        """Freeze them all, stop their disks, kill them."""
        driver = self.driver
        states = {name: driver.state(name) for name in self.nodes}
        if dead := [
            name for name, state in states.items() if state not in (NodeState.RUNNING, NodeState.PAUSED)
        ]:
            raise LabError(f"{self.spec}: {', '.join(dead)} must run to lose power")
        self.remember(nodes=list(self.nodes))
        places = {name: driver.outside(name) for name in self.nodes}
        for name, place in places.items():
            self._witnesses[name] = _Witness.write(place)
        time.sleep(_UNDISTURBED)
        for name in self.nodes:
            self.scene.left(name)
        for name in self.nodes:
            if states[name] is NodeState.RUNNING:
                driver.pause(name)
        for name, place in places.items():
            self._witnesses[name].go_on(place)
        for place in places.values():
            driver.disks.cut(place)
        for name in self.nodes:
            driver.kill(name)
        for name in self.nodes:
            driver.disks.unmount(name)
        return {}

    def prove(self) -> str:
        """They are dead, and their disks have of the witness what they should. Raises NoBite."""
        found = []
        for name in self.nodes:
            if (state := self.driver.state(name)) is not NodeState.EXITED or name not in self._witnesses:
                raise NoBite(f"{self.spec}: {name} is {state.value}, and its disk did not lose power")
            with self.driver.disks.opened(name) as place:
                if lie := self._witnesses[name].lie(place):
                    raise NoBite(f"{self.spec}: on the disk of {name}, {lie}")
            found.append(name)
        kib = f"{_SIZE >> 10} KiB"
        return (
            f"on {len(found)} disks ({', '.join(found)}), read after their journals were replayed: {kib} written with "
            f"fsync right before are there, {kib} written without are gone, {kib} overwritten without are as before"
        )

    def heal(self) -> None:
        """Power: start them, and wait until they work."""
        _power(self.driver, self.nodes)
        for name in self.nodes:
            self.scene.ready(name)

    def prove_healed(self) -> str:
        """They run, on their own disks, and these take a write and keep it. Raises NotHealed."""
        found = []
        for name in self.nodes:
            running = NodeState.RUNNING
            self.until(lambda: self.driver.state(name) is running, NotHealed, f"{name} to run")  # noqa: B023  asked at once
            if not self.driver.disks.holds(name, self.driver.outside(name)):
                raise NotHealed(f"{self.spec}: the state of {name} does not lie on its disk")
            try:
                seconds = fsync_seconds(self.driver, name, self.driver.state_path(name), _SIZE >> 10)
            except LabError as error:
                raise NotHealed(f"{self.spec}: {error}") from error
            found.append(
                f"{name} runs on its disk, {_SIZE >> 10} KiB written and fsynced in {seconds * 1000:.0f} ms"
            )
        return "; ".join(found)

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """Whatever was reached: what is frozen is killed, and all start on what their disks have."""
        _power(driver, tuple(facts.get("nodes", ())))


def _power(driver: Driver, names: tuple[str, ...]) -> None:
    for name in names:
        if driver.state(name) is NodeState.PAUSED:
            driver.kill(name)
    for name in names:
        if driver.state(name) is NodeState.EXITED:
            driver.disks.unmount(name)
            with driver.disks.opened(name) as place:
                _Witness.remove(place)
    start_fallen(driver, names)


class _Witness:
    """Three files: written with fsync; written without; written with, and then overwritten without."""

    def __init__(self) -> None:
        self.fsynced, self.unsynced, self.before = (os.urandom(_SIZE) for _ in range(3))

    @classmethod
    def write(cls, place: Path) -> _Witness:
        """Raises LabError."""
        it = cls()
        try:
            _put(place / f"{_WITNESS}.over", it.before, fsync=True)
            _put(place / f"{_WITNESS}.kept", it.fsynced, fsync=True)
            directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise LabError(f"cannot write a witness on the disk at {place}: {error.strerror}") from error
        return it

    def go_on(self, place: Path) -> None:
        """What is not fsynced, right before the power goes. Raises LabError."""
        try:
            _put(place / f"{_WITNESS}.over", self.unsynced, fsync=False)
            _put(place / f"{_WITNESS}.new", self.unsynced, fsync=False)
        except OSError as error:
            raise LabError(f"cannot write a witness on the disk at {place}: {error.strerror}") from error

    def lie(self, place: Path) -> str:
        """What is not as a power failure leaves it; empty when all is."""
        if _get(place / f"{_WITNESS}.kept") != self.fsynced:
            return "what was fsynced is not there as it was written"
        if _get(place / f"{_WITNESS}.over") != self.before:
            return "what was overwritten without fsync is not as before"
        return "" if not _get(place / f"{_WITNESS}.new") else "what was not fsynced is there"

    @staticmethod
    def remove(place: Path) -> None:
        for file in place.glob(f"{_WITNESS}.*"):
            file.unlink(missing_ok=True)


def _put(path: Path, data: bytes, *, fsync: bool) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        if fsync:
            os.fsync(file.fileno())


def _get(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
