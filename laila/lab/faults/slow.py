"""A disk that takes its time: what a node writes to it goes through slowly, so each fsync takes long.

Only of a disk of the node's own: on a disk that it shares with this machine, everybody who wants an fsync would wait
for the writes that are held back, since a file system commits for all at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults.base import NoBite, NotHealed, Option, Scene
from laila.lab.faults.beside import fsync_seconds
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.struck import NodeFault

_WORTH = 2.0
"""Seconds that the write of a proof takes on the slow disk."""
_SLOW, _QUICK = 0.6 * _WORTH, 0.5 * _WORTH
_ALIVE = (NodeState.RUNNING, NodeState.PAUSED)


class SlowFsync(NodeFault):
    """By the control group of the node's processes."""

    kind: ClassVar[str] = "slow-fsync"
    summary: ClassVar[str] = (
        "the disk of a node is slow: an fsync takes as long as what was written before it"
    )
    options: ClassVar[Mapping[str, Option]] = {
        "kib": Option(128, "what the disk takes in a second", " KiB", least=4, most=1 << 20)
    }

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        self._kib: int = self.option("kib")
        self._before: dict[str, float] = {}

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        return driver.unslowable()

    def inject(self) -> dict[str, Any]:
        """Slow them all down, after measuring."""
        self._before = {name: self._fsync(name) for name in self.nodes}
        self.remember(nodes=list(self.nodes))
        for name in self.nodes:
            self.driver.slow_disk(name, self._kib << 10)
        return {}

    def prove(self) -> str:
        """A real fsync beside each node takes as long as it must. Raises NoBite."""
        found = []
        for name in self.nodes:
            now = self._fsync(name)
            if now < _SLOW:
                raise NoBite(
                    f"{self.spec}: beside {name} {self._amount} KiB are written and fsynced in {now:.2f} s"
                )
            was = f" ({self._before[name]:.2f} s before)" if name in self._before else ""
            found.append(f"beside {name} {self._amount} KiB with fsync take {now:.2f} s{was}")
        return "; ".join(found)

    def heal(self) -> None:
        """Let them write as fast as they can."""
        self.undo(self.driver, {"nodes": self.nodes})

    def prove_healed(self) -> str:
        """The same fsync is quick again. Raises NotHealed."""
        found = []
        for name in self.nodes:
            now = 0.0

            def quick() -> bool:
                nonlocal now
                now = self._fsync(name)  # noqa: B023  asked at once
                return now < _QUICK

            self.until(
                quick,
                NotHealed,
                f"an fsync of {self._amount} KiB beside {name} to take less than {_QUICK:g} s",
            )
            found.append(f"beside {name} {self._amount} KiB with fsync take {now:.2f} s")
        return "; ".join(found)

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """The group of a node that does not live is gone with it, or limits nobody."""
        for name in facts.get("nodes", ()):
            if driver.state(name) in _ALIVE:
                driver.slow_disk(name, 0)

    @property
    def _amount(self) -> int:
        return round(self._kib * _WORTH)

    def _fsync(self, name: str) -> float:
        return fsync_seconds(self.driver, name, self.driver.state_path(name), self._amount)
