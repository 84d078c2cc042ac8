"""The wall clock of nodes jumps, or runs fast or slow; clocks that count from a start do not notice.

Proven by reading both clocks beside the node. What is known of a reading is that it lies between the question and the
answer by the controller's own clocks: so every difference is an interval, and only what it cannot be otherwise counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from laila.errors import LabError
from laila.lab.drivers.base import Driver, Lever
from laila.lab.drivers.clock_shift import LIBRARY, Shift
from laila.lab.faults.base import NoBite, NotHealed, Option, Scene
from laila.lab.faults.family import family
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.struck import PATIENCE, NodeFault

_DECADES = 1e9
_NO_SHIFT = Shift().pack()
_ASK = "python3 -c 'import time; print(time.time(), time.monotonic())' 2>/dev/null || date +%s"
_WHO_HAS_IT = """
name=$1; shift
for pid; do
    while read -r line; do
        case $line in *"$name") echo "$pid"; break ;; esac
    done <"/proc/$pid/maps"
done 2>/dev/null
true
"""
_CREEP = 0.01
"""Seconds that a clock may gain meanwhile that is not this machine's."""
_UNKNOWN = 1.0
"""Seconds that a clock may be off which nobody looked at before, on a machine that is not this one."""


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds between which a difference lies."""

    least: float
    most: float

    def __sub__(self, other: Span) -> Span:
        return Span(self.least - other.most, self.most - other.least)

    def meets(self, other: Span) -> bool:
        return self.least <= other.most and other.least <= self.most

    def __str__(self) -> str:
        middle, half = (self.least + self.most) / 2, (self.most - self.least) / 2
        return f"{middle:+.3f} s (± {half:.3f})"


_ZERO = Span(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """How far the clocks beside a node are ahead of the controller's."""

    wall: Span
    steady: Span | None
    """Of the monotonic clock; None when nothing there could tell it."""
    at: float
    """The node's wall clock itself."""
    asked: Span
    """When, by the controller's monotonic clock."""

    @classmethod
    def of(cls, driver: Driver, name: str) -> Reading:
        """Raises LabError when nothing beside the node tells the time."""
        began, began_steady = time.time(), time.monotonic()
        told = driver.exec(name, ["sh", "-c", _ASK], timeout=PATIENCE)
        ended, ended_steady = time.time(), time.monotonic()
        words = told.stdout.split()
        try:
            wall, grain = float(words[0]), 0.0 if len(words) == 2 else 1.0
            steady = float(words[1]) if len(words) == 2 else None
        except (ValueError, IndexError):
            said = (told.stdout + told.stderr).decode("utf-8", "replace").strip()[-200:]
            raise LabError(
                f"nothing beside {name} tells the time, neither python3 nor date: {said or 'no output'}"
            ) from None
        return cls(
            Span(wall - ended, wall + grain - began),
            None if steady is None else Span(steady - ended_steady, steady - began_steady),
            wall,
            Span(began_steady, ended_steady),
        )


class Clock(NodeFault):
    """See the top of this file."""

    kind: ClassVar[str] = "clock"
    summary: ClassVar[str] = "the wall clock of nodes jumps, or runs fast or slow"
    options: ClassVar[Mapping[str, Option]] = {
        "seconds": Option(
            600.0, "how far it jumps; negative: back", "s", -_DECADES, _DECADES
        ),
        "ppm": Option(
            0.0, "by how many parts per million it runs fast from then on; negative: slow", "ppm", -1e6, 1e6
        ),
    }  # fmt: skip

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        self._before: dict[str, Reading] = {}

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        return driver.lever(Lever.CLOCK)

    def inject(self) -> dict[str, Any]:
        """All nodes at once, each from what its own clock shows."""
        for name in self.nodes:
            self._before[name] = Reading.of(self.driver, name)
        self.remember(nodes=list(self.nodes))
        for name, before in self._before.items():
            shift = Shift(self.option("seconds"), self.option("ppm"), before.at)
            self.driver.set_clock(name, shift.pack())
        return {}

    def prove(self) -> str:
        """It is off by what was asked for, the monotonic clock is not, and the node itself goes by it."""
        return "; ".join(self._shown(name) for name in self.nodes)

    def _shown(self, name: str) -> str:
        before, now = self._before.get(name), Reading.of(self.driver, name)
        if before is None:
            raise NoBite(f"{self.spec}: the clock of {name} was not touched, it is {now.wall} off")

        def bent() -> bool:
            nonlocal now
            now = Reading.of(self.driver, name)
            moved = now.wall - before.wall
            return not moved.meets(_ZERO) and moved.meets(self._wanted(before, now))

        self.until(
            bent, NoBite, f"the clock of {name} to show it; it is {now.wall - before.wall} from where it was"
        )
        followers = self._followers(name)
        steady = "there is no Python beside it that could tell the monotonic clock"
        if before.steady is not None and now.steady is not None:
            if not (crept := now.steady - before.steady).meets(_ZERO):
                raise NoBite(f"{self.spec}: the monotonic clock of {name} moved too, by {crept}")
            steady = f"its monotonic clock by {crept}"
        return f"the wall clock of {name} moved by {now.wall - before.wall}, {steady}; {followers}"

    def _wanted(self, before: Reading, now: Reading) -> Span:
        """How far it must have moved, with what it gained by running fast until it was read."""
        jump, fast, passed = self.option("seconds"), self.option("ppm") / 1e6, now.asked - before.asked
        ends = (jump + fast * passed.least, jump + fast * passed.most)
        return Span(min(ends) - _CREEP, max(ends) + _CREEP)

    def _followers(self, name: str) -> str:
        """That the node's own programs have loaded the library, else only programs beside it are bent."""
        pids = [str(process.pid) for process in family(self.driver, name)]
        words = ["sh", "-c", _WHO_HAS_IT, "sh", LIBRARY, *pids]
        have = self.driver.exec(name, words, timeout=PATIENCE).stdout.split()
        if not have:
            raise NoBite(
                f"{self.spec}: no program of {name} has loaded the library, so none sees it; a program that is linked "
                f"statically, as those in Go are, cannot"
            )
        return f"{len(have)} of its {len(pids)} programs see it"

    def heal(self) -> None:
        self.undo(self.driver, {"nodes": self.nodes})

    def prove_healed(self) -> str:
        """It is where it was before."""
        found = []
        for name in self.nodes:
            now, before = Reading.of(self.driver, name), self._before.get(name)
            off = now.wall if before is None else now.wall - before.wall
            allowed = Span(-_UNKNOWN, _UNKNOWN) if before is None else _ZERO
            if not off.meets(allowed):
                raise NotHealed(f"{self.spec}: the clock of {name} is still {off} off")
            found.append(f"the wall clock of {name} is {off} off")
        return "; ".join(found)

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """See Fault.undo."""
        for name in facts.get("nodes", ()):
            driver.set_clock(name, _NO_SHIFT)
