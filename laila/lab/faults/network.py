"""What faults of the network have in common: they strike ways, and are proven by dialing.

Before anything is done every node dials every other, so that it is known who reached whom; what did not go through
before shows nothing. A proof asks for the ways that are struck and for those that are not: these must go through as
before.
"""

from __future__ import annotations

import abc
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

from laila.errors import LabError
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults import hands, ledger, sides, wires
from laila.lab.faults.base import Fault, NoBite, NotHealed, Scene
from laila.lab.faults.sides import Sides, Way
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.wires import Dial, Effect, Wires

T = TypeVar("T")
QUICK = 0.8
"""Seconds without an answer that count as silence: an answer takes a millisecond."""
PATIENT = 3.0
"""Seconds that a dial may take that must go through, on a busy machine."""
MOST = 24
"""Ways of a kind that a proof dials at most."""


class NetworkFault(Fault):
    """Subclasses say what is done to which ways (`_choose`, `_effect`), and prove it."""

    needs: ClassVar[str] = "drop"
    """What the agent must be able to do."""
    links_cannot: ClassVar[str] = ""
    """Why a program that carries links cannot do it."""

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        for name in spec.options:
            self.option(name)
        self.id = secrets.token_hex(4)
        self.sides: Sides = self._choose()
        self._before: dict[Way, Dial] = {}
        self._wires: Wires | None = None

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        return wires.hindrance(driver, cls.needs, cls.links_cannot)

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.sides.nodes

    @property
    def wires(self) -> Wires:
        if self._wires is None:
            self._wires = wires.of(self.scene)
        return self._wires

    def _choose(self) -> Sides:
        return sides.between(self.scene, self.spec)

    @abc.abstractmethod
    def _effect(self) -> Effect: ...

    def _prepare(self) -> None:
        """After it is known who reaches whom, before anything is done."""

    # -- the fault

    def inject(self) -> dict[str, Any]:
        by = "packets" if wires.by_packets(self.scene.driver) else "links"
        self.remember(id=self.id, by=by, nodes=list(self.sides.ends), links=self.sides.links)
        struck = self._some(self.sides.struck)
        self._before = self._dials(struck + self._some(self.sides.free), PATIENT)
        if not struck:
            raise LabError(f"{self.spec}: nothing runs at one end of {sides.shown(self.sides.struck)}")
        if not any(self._before[way].ok for way in struck):
            how = self._before[struck[0]]
            raise LabError(
                f"{self.spec}: nothing went through between these nodes before it was done ({how.outcome})"
            )
        self._prepare()
        try:
            self.wires.impose(self.id, self.sides.struck, self._effect())
        except BaseException:
            self.wires.lift(self.id)
            raise
        return {}

    def heal(self) -> None:
        self.wires.end()
        self.wires.lift(self.id)

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        if "id" in facts:
            wires.undo(driver, facts["by"], facts["id"], facts["nodes"])

    def prove_healed(self) -> str:
        """Everything goes through that did before; without knowing of before, everything."""
        took = self._all_through(self.sides.struck, NotHealed)
        return f"{sides.shown(self.sides.struck)}: new connections within {took * 1000:.1f} ms"

    # -- for proofs

    def _alive(self, ways: Iterable[Way]) -> list[Way]:
        state = self.scene.driver.state
        there = {name for name in self.scene.names if state(name) is NodeState.RUNNING}
        return [way for way in ways if set(way) <= there]

    def _some(self, ways: Sequence[Way], most: int = MOST) -> list[Way]:
        """Not more than so many, from all over, between nodes that run; of those that went through before."""
        known = [way for way in self._alive(ways) if way not in self._before or self._before[way].ok]
        step = max(1, -(-len(known) // most))
        return known[::step]

    def _links(self, most: int) -> list[Way]:
        """The same of struck ways, each pair of nodes once."""
        return self._some(sides.once(self.sides.struck), most)

    def _dials(self, ways: Iterable[Way], patience: float) -> dict[Way, Dial]:
        """All at once."""
        return at_once(ways, lambda way: self.wires.dial(way, patience))

    def _all_through(self, ways: Sequence[Way], error: type[LabError]) -> float:
        """Wait until all of them connect; the slowest of them, in seconds."""
        waiting = self._some(ways)
        slowest = 0.0

        def done() -> bool:
            nonlocal waiting, slowest
            found = self._dials(waiting, PATIENT)
            slowest = max([slowest, *(dial.seconds for dial in found.values() if dial.ok)])
            waiting = [way for way, dial in found.items() if not dial.ok]
            return not waiting

        self.until(done, error, f"{sides.shown(waiting)} to get through")
        return slowest

    def _others_through(self) -> str:
        """Between nodes of which no way is struck everything goes through, as far as no other fault strikes there.
        Raises NoBite: it broke more than it should.
        """
        free = self._others()
        if not free:
            return "there are no others"
        took = self._all_through(free, NoBite)
        return f"{sides.shown(free)} as before within {took * 1000:.1f} ms"

    def _others(self, most: int = MOST) -> list[Way]:
        """Both ways between nodes of which no way is struck, by this fault or another one."""
        open_ = ledger.open_entries(self.scene.driver.run)
        links = {tuple(link) for entry in open_ for link in entry.facts.get("links", ())}
        free = [link for link in self.sides.free_links if link not in links]
        return self._some(sides.both(free), most)

    def _none_through(self, ways: Sequence[Way], wanted: Sequence[str] = ()) -> dict[Way, Dial]:
        """Wait until none of them connects, and each dial ends as one of `wanted` where these are given. Raises
        NoBite.
        """
        found: dict[Way, Dial] = {}
        still = self._some(ways)
        if not still:
            return self._none_is_there(ways)

        def done() -> bool:
            nonlocal still
            found.update(self._dials(still, QUICK))
            still = [way for way in still if found[way].ok or (wanted and found[way].outcome not in wanted)]
            return not still

        self.until(done, NoBite, f"{sides.shown(still)} to be struck ({outcomes(found)})")
        return found

    def _none_is_there(self, ways: Sequence[Way]) -> dict[Way, Dial]:
        """Another fault holds the nodes down: what is sent to them meets this one first. Raises NoBite."""
        state = self.scene.driver.state
        senders = [way for way in ways if state(way[0]) is NodeState.RUNNING][:MOST]

        def met() -> bool:
            at_once(senders, self.wires.knock)
            return self.wires.hits(self.id) > 0

        self.until(
            met, NoBite, f"something to meet it, because nothing runs at one end of {sides.shown(ways)}"
        )
        return {}

    def _hits(self) -> str:
        """What the fault has met so far. Raises NoBite when that is nothing."""
        count = self.wires.hits(self.id)
        if not count:
            raise NoBite(f"{self.spec}: not one of the {self.wires.unit} has met it")
        return f"{count} {self.wires.unit} met it"


def at_once(ways: Iterable[Way], ask: Callable[[Way], T]) -> dict[Way, T]:
    """Ask for all of them side by side."""
    named = {f"{a}/{b}": (a, b) for a, b in ways}
    found = hands.at_once({name: partial(ask, way) for name, way in named.items()})
    return {named[name]: answer for name, answer in found.items()}


def outcomes(found: Mapping[Way, Dial]) -> str:
    counted: dict[str, int] = {}
    for dial in found.values():
        counted[dial.outcome] = counted.get(dial.outcome, 0) + 1
    return (
        ", ".join(f"{count} {outcome}" for outcome, count in sorted(counted.items()))
        or "its nodes do not run"
    )
