"""Which nodes a fault of single nodes strikes."""

from __future__ import annotations

from laila.errors import BadConfig, LabError
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults.base import Fault, Scene
from laila.lab.faults.spec import ALL, MOST, FaultSpec

PATIENCE = 15.0
"""Seconds that a small program beside a node may take on a busy machine."""


def chosen(scene: Scene, spec: FaultSpec) -> tuple[str, ...]:
    """The nodes that are named, `*` for all, `most` for more than half; else one by the seed. Raises BadConfig."""
    if not spec.groups:
        return (scene.chance.choice(scene.names),)
    if len(spec.groups) > 1:
        raise BadConfig(
            f"{spec}: {spec.kind} strikes single nodes, there are no sides; write @NODE.NODE, not @NODE/NODE"
        )
    named = tuple(dict.fromkeys(spec.groups[0]))
    if named == (ALL,):
        return scene.names
    if named == (MOST,) and MOST not in scene.names:
        return tuple(sorted(scene.chance.sample(scene.names, len(scene.names) // 2 + 1)))
    if unknown := [name for name in named if name not in scene.names]:
        raise BadConfig(f"{spec}: there is no node {', '.join(unknown)}; there are {', '.join(scene.names)}")
    return named


class NodeFault(Fault):
    """A fault that does the same to each of its nodes."""

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        for name in spec.options:
            self.option(name)  # one that is out of bounds is told now, not in the middle of a run
        self._nodes = chosen(scene, spec)

    @property
    def nodes(self) -> tuple[str, ...]:
        return self._nodes

    @property
    def driver(self) -> Driver:
        return self.scene.driver


def died(driver: Driver, name: str) -> str:
    """That a node has ended, and with what; empty while it lives."""
    if driver.state(name) is not NodeState.EXITED:
        return ""
    code = driver.ending(name).code
    return f"{name} has ended{'' if code is None else f' with {code}'}"


def start_fallen(driver: Driver, names: tuple[str, ...]) -> list[str]:
    """Start those that have exited; which."""
    fallen = [name for name in names if driver.state(name) is NodeState.EXITED]
    for name in fallen:
        try:
            driver.start(name)
        except LabError:
            if driver.state(name) is not NodeState.RUNNING:  # a pod comes back by itself
                raise
    return fallen
