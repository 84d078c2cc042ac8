"""Nodes that do not reach each other: partitions, isolation, and ways that go one way only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from laila.errors import BadConfig, LabError
from laila.lab.faults import sides, wires
from laila.lab.faults.base import NoBite, NotHealed, Option, Scene
from laila.lab.faults.network import QUICK, NetworkFault, outcomes
from laila.lab.faults.sides import Sides, Way
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.wires import ANSWERED, Effect

_SENT = 60
"""Datagrams of a proof that something arrives, or does not."""


class Partition(NetworkFault):
    kind: ClassVar[str] = "partition"
    summary: ClassVar[str] = "groups of nodes do not reach each other"
    options: ClassVar[Mapping[str, Option]] = {
        "shape": Option(
            "", f"which nodes, by the seed: {', '.join(sides.SHAPES)}; without it one against the rest"
        )
    }

    def _choose(self) -> Sides:
        shape = self.option("shape")
        return sides.shaped(self.scene, self.spec, shape) if shape else super()._choose()

    def _effect(self) -> Effect:
        return Effect(drop=True)

    def prove(self) -> str:
        """New connections end in silence, both ways."""
        found = self._none_through(self.sides.struck)
        cut = f"{sides.shown(self.sides.struck)} cut: {outcomes(found)} after {QUICK:g} s"
        return f"{cut}, {self._hits()}; {self._others_through()}"


class Isolate(Partition):
    kind: ClassVar[str] = "isolate"
    summary: ClassVar[str] = "one node, or each of several, reaches no other node"
    options: ClassVar[Mapping[str, Option]] = {}

    def _choose(self) -> Sides:
        if len(self.spec.groups) > 1:
            raise BadConfig(f"{self.spec}: isolation has no sides; write @NODE.NODE, not @NODE/NODE")
        alone = [name for group in sides.groups_of(self.scene, self.spec) for name in group]
        links = [(name, other) for name in alone for other in self.scene.names if other != name]
        return sides.of(self.scene.names, sides.both(links), alone)


class OneWay(NetworkFault):
    kind: ClassVar[str] = "one-way"
    summary: ClassVar[str] = "what one group sends to another vanishes, and not what it is sent"
    options: ClassVar[Mapping[str, Option]] = {
        "new": Option(0, "1: only what opens a connection vanishes, and standing ones go on", most=1)
    }

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        if self.option("new") and not wires.by_packets(scene.driver):
            raise BadConfig(
                f"{spec}: the {scene.driver.name} driver carries links by a program, in which what opens a connection "
                "is no packet of its own; use --driver docker for new=1"
            )

    def _choose(self) -> Sides:
        return sides.towards(self.scene, self.spec)

    def _effect(self) -> Effect:
        return Effect(drop=True, new=bool(self.option("new")))

    def _prepare(self) -> None:
        if self.option("new"):
            for way in self._links(4):
                self.wires.stand(way)

    def prove(self) -> str:
        if self.option("new"):
            return self._prove_new()
        ways = self._some(self.sides.struck, 4)
        back = [way[::-1] for way in ways]
        lost = self._arrive(ways, lambda sent, there: there == 0, NoBite)
        other = self._arrive(back, _all, NoBite)
        text = f"{sides.shown(ways)}: {lost} arrive, {other} the other way"
        return f"{text}, {self._hits()}; {self._others_through()}"

    def _arrive(self, ways: Sequence[Way], enough: Callable[[int, int], bool], error: type[LabError]) -> str:
        """Send until so much arrives; `0 of 60`."""
        sent, there = 0, 0

        def done() -> bool:
            nonlocal sent, there
            found = [self.wires.arrived(way, _SENT) for way in ways]
            sent, there = sum(one[0] for one in found), sum(one[1] for one in found)
            return enough(sent, there)

        self.until(done, error, f"{'all' if enough is _all else 'nothing'} to arrive on {sides.shown(ways)}")
        return f"{there} of {sent}"

    def _prove_new(self) -> str:
        found = self._none_through(self.sides.struck)
        back = [way[::-1] for way in self._some(self.sides.struck)]
        took = self._all_through(back, NoBite)
        talking = {way: self.wires.talk(way, 2.0) for way in self._links(4)}
        if broken := [way for way, outcome in talking.items() if outcome != ANSWERED]:
            raise NoBite(f"{self.spec}: the standing connection of {sides.shown(broken)} broke too")
        dialed = f"{sides.shown(self.sides.struck)}: {outcomes(found)} when dialed"
        other = f"the other way within {took * 1000:.1f} ms, {len(talking)} standing connections answer"
        return f"{dialed}, {other}, {self._hits()}"

    def prove_healed(self) -> str:
        text = super().prove_healed()
        return f"{text}, {self._arrive(self._some(self.sides.struck, 4), _all, NotHealed)} arrive"


def _all(sent: int, there: int) -> bool:
    """But for a datagram or two that a busy machine loses."""
    return there >= 0.8 * sent
