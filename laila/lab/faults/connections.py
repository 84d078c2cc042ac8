"""Connections that are reset, and connections that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from laila.lab.faults import sides
from laila.lab.faults.base import NoBite, NotHealed, Option
from laila.lab.faults.network import NetworkFault, outcomes
from laila.lab.faults.sides import Way
from laila.lab.faults.wires import ANSWERED, REFUSED, RESET, Effect

_STANDING = 6
"""Connections of its own that a proof has at most."""


class _WithStanding(NetworkFault):
    """With a connection of its own for some of the links, that stands before anything is done."""

    needs: ClassVar[str] = "reject"

    def _prepare(self) -> None:
        for way in self._links(_STANDING):
            self.wires.stand(way)

    def _talks(self) -> dict[Way, str]:
        return {way: self.wires.talk(way, 2.0) for way in self._links(_STANDING)}


class Reset(_WithStanding):
    kind: ClassVar[str] = "reset"
    summary: ClassVar[str] = "connections are reset, and can be made again"
    options: ClassVar[Mapping[str, Option]] = {
        "again": Option(0, "1: new ones are reset as well, as long as it lasts", most=1)
    }

    def _effect(self) -> Effect:
        return Effect(reset=True, again=bool(self.option("again")))

    def prove(self) -> str:
        found: dict[Way, str] = {}

        def all_reset() -> bool:
            found.update({way: said for way, said in self._talks().items() if found.get(way) != RESET})
            return all(said == RESET for said in found.values())

        self.until(all_reset, NoBite, f"connections of {sides.shown(self.sides.struck)} to be reset")
        text = f"{len(found)} of {len(found)} connections of the lab's own were reset, {self._hits()}"
        if not self.option("again"):
            took = self._all_through(self.sides.struck, NoBite)
            return f"{text}; new ones within {took * 1000:.1f} ms; {self._others_through()}"
        dials = self._none_through(self.sides.struck)
        return f"{text}; new ones: {outcomes(dials)}; {self._others_through()}"

    def prove_healed(self) -> str:
        text = super().prove_healed()
        found: dict[Way, str] = {}

        def answered() -> bool:
            self.wires.end()  # those that stood before were reset
            found.update(self._talks())
            return all(said == ANSWERED for said in found.values())

        try:
            self.until(answered, NotHealed, f"connections of {sides.shown(self.sides.struck)} to stay")
        finally:
            self.wires.end()
        return f"{text}, {len(found)} connections stay"


class Refuse(_WithStanding):
    kind: ClassVar[str] = "refuse"
    summary: ClassVar[str] = "new connections are refused, and standing ones go on"

    def _effect(self) -> Effect:
        return Effect(refuse=True)

    def prove(self) -> str:
        dials = self._none_through(self.sides.struck, (REFUSED,))
        slowest = max(dial.seconds for dial in dials.values())
        talks = self._talks()
        if broken := [way for way, said in talks.items() if said != ANSWERED]:
            raise NoBite(f"{self.spec}: standing connections of {sides.shown(broken)} broke too")
        refused = f"{len(dials)} of {len(dials)} dials refused within {slowest * 1000:.1f} ms"
        return (
            f"{refused}, {len(talks)} standing connections answer, {self._hits()}; {self._others_through()}"
        )
