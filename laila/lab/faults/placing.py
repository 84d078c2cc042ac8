"""Nodes whose pods a cluster replaces: by a rollout, an eviction, a deletion, and when their machine is drained.

Proven by the pods' identities, which the API server gives once, and by the main process. What nodes keep stays: without
storage that outlives pods these faults cannot be done.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

from laila.errors import LabError
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.drivers.placement import Pod
from laila.lab.faults.base import NoBite, NotHealed, Scene
from laila.lab.faults.life import LifeFault
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.struck import start_fallen

_LOOKS = 40
"""At a pod, some two seconds or more in all, until it counts as one that finds no machine."""


class PlacingFault(LifeFault):
    """Another pod for each of its nodes."""

    breaks_clients: ClassVar[bool] = True

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        self._pods: dict[str, Pod] = {}

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        if not driver.capabilities.pods:
            return f"nodes of the {driver.name} driver are no pods; use --driver kubernetes"
        return driver.placement.hindrance()

    def _look_at_pods(self) -> None:
        self._look()
        for name in self.nodes:
            if (pod := self.driver.placement.pod(name)) is None:
                raise LabError(f"{self.spec}: {name} has no pod")
            self._pods[name] = pod

    def prove(self) -> str:
        """Each node runs in another pod."""
        return "; ".join(self._moved(name) for name in self.nodes)

    def _moved(self, name: str) -> str:
        was, now = self._pods.get(name), self.driver.placement.pod(name)
        if was is None or (now is not None and now.uid == was.uid):
            raise NoBite(f"{self.spec}: {name} still has the pod {now}, as before")
        return f"{name} ran in pod {was}, now {'it has none' if now is None else f'in {now}'}"

    def prove_healed(self) -> str:
        """They run and answer."""
        return "; ".join(
            f"{self._renewed(name)}, in pod {self.driver.placement.pod(name)}" for name in self.nodes
        )


class _Replacing(PlacingFault):
    """Over as soon as the other pods run."""

    def inject(self) -> dict[str, Any]:
        """Replace one after another."""
        self._look_at_pods()
        self.remember(nodes=list(self.nodes))
        for name in self.nodes:
            self.scene.left(name)
            self._replace(name)
            start_fallen(self.driver, (name,))
        return {}

    @abc.abstractmethod
    def _replace(self, name: str) -> None:
        """Returns when the old pod is gone."""


class Rollout(_Replacing):
    """A new revision of the StatefulSet, as `kubectl rollout restart` makes it."""

    kind: ClassVar[str] = "rollout"
    summary: ClassVar[str] = "pods are replaced by a rollout restart"

    def _replace(self, name: str) -> None:
        self.driver.placement.roll(name)


class Evict(_Replacing):
    """By the eviction API: the budget decides when."""

    kind: ClassVar[str] = "evict"
    summary: ClassVar[str] = "pods are evicted, as the disruption budget allows it"

    def _replace(self, name: str) -> None:
        self.driver.placement.evict(name)


class DeletePod(_Replacing):
    """Nobody asks the budget."""

    kind: ClassVar[str] = "delete-pod"
    summary: ClassVar[str] = "pods are deleted"

    def _replace(self, name: str) -> None:
        self.driver.placement.delete(name)


class Drain(PlacingFault):
    """The machines of its nodes are closed, and all that this run has there is evicted; nothing of anybody else."""

    kind: ClassVar[str] = "drain"
    summary: ClassVar[str] = "the nodes' machines are cordoned and drained, and opened again later"

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        self._closed: tuple[str, ...] = ()

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        return super().hindrance(driver) or driver.placement.no_draining()

    def inject(self) -> dict[str, Any]:
        """Close the machines, and evict one after another, until one finds no other machine: it waits until they are
        open, and the rest stays.
        """
        placement = self.driver.placement
        self._look_at_pods()
        self._closed = tuple(dict.fromkeys(pod.machine for pod in self._pods.values()))
        there = {name: placement.pod(name) for name in self.scene.names}
        self._nodes = tuple(
            name
            for name, pod in there.items()
            if pod is not None
            and pod.machine in self._closed
            and (name in self.nodes or self.driver.state(name) is NodeState.RUNNING)
        )
        self._look_at_pods()
        self.remember(nodes=list(self.nodes), machines=list(self._closed))
        for machine in self._closed:
            placement.cordon(machine)
        for number, name in enumerate(self.nodes, 1):
            self.scene.left(name)
            placement.evict(name)
            if not self._found_a_machine(name):  # nobody else may go, as the budget has it
                self._nodes = self.nodes[:number]
                break
        return {}

    def _found_a_machine(self, name: str) -> bool:
        """Waits until its other pod has one, and then until it runs; not for ever for the first."""
        placed: list[bool] = []

        def settled() -> bool:
            pod = self.driver.placement.pod(name)
            if pod is not None:
                placed.append(bool(pod.machine))
            return any(placed) or len(placed) >= _LOOKS

        self.until(settled, NoBite, f"another pod of {name}")
        if any(placed):
            start_fallen(self.driver, (name,))
        return any(placed)

    def prove(self) -> str:
        """The machines are closed by this run, and none of its nodes is there."""
        closed = [machine for machine in self.driver.placement.cordoned() if machine in self._closed]
        if not closed:
            raise NoBite(f"{self.spec}: no machine is cordoned by it")
        found = []
        for name in self.nodes:
            found.append(self._moved(name))
            now = self.driver.placement.pod(name)
            if now is not None and now.machine in closed:
                raise NoBite(f"{self.spec}: {name} is still on {now.machine}")
        return f"{', '.join(closed)} cordoned; {'; '.join(found)}"

    def heal(self) -> None:
        """Open the machines; who waited for one gets it."""
        self.driver.placement.uncordon(self._closed)
        super().heal()

    def prove_healed(self) -> str:
        """The machines are open, the nodes run and answer."""
        closed = self.driver.placement.cordoned()
        if left := [machine for machine in closed if machine in (self._closed or closed)]:
            raise NotHealed(f"{self.spec}: {', '.join(left)} is still cordoned")
        return f"its machine is open; {super().prove_healed()}"

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """See Fault.undo."""
        driver.placement.uncordon(tuple(facts.get("machines", ())))
        super().undo(driver, facts)
