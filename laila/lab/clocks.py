"""Moments that nodes tell, brought onto the controller's clock, with how sure that is.

Programs on one kernel share CLOCK_MONOTONIC: then what a node tells *is* a moment of the controller. That is not
assumed but shown: the boot ids are equal, and every reading of the node's clock lies between the controller's asking
and its getting the answer. Where it is not so (another machine, a time namespace), only these askings and answers
count: a moment is known to lie between two bounds, and judges use the bound that accuses nobody wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from laila.errors import LabError

DRIFT = 500e-6
"""Seconds that two machines' clocks may run apart in a second: what kernels allow themselves when they slew."""


@dataclass(frozen=True, slots=True)
class Moment:
    """On the controller's monotonic clock: not before `earliest`, not after `latest`."""

    earliest: float
    latest: float

    @classmethod
    def at(cls, time: float) -> Moment:
        """Known exactly."""
        return cls(time, time)

    def surely_before(self, other: Moment) -> bool:
        return self.latest < other.earliest

    def since(self, began: float) -> list[float]:
        """As a history keeps it: seconds since the run began."""
        return [round(self.earliest - began, 6), round(self.latest - began, 6)]


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a node's clock: asked at `sent`, told `told`, known at `received`."""

    sent: float
    told: float
    received: float

    @property
    def within(self) -> bool:
        """Whether the told time could be a moment of the controller's own clock."""
        return self.sent <= self.told <= self.received


@dataclass(slots=True)
class NodeClock:
    """The clock of one node, known by readings."""

    node: str
    boot_id: str
    readings: list[Reading] = field(default_factory=list)

    def add(self, sent: float, told: Iterable[float], received: float) -> None:
        """What a node told in the course of one call."""
        self.readings += [Reading(sent, moment, received) for moment in told]

    @property
    def shared(self) -> bool:
        """Whether it is the controller's own clock."""
        same_boot = bool(self.boot_id) and self.boot_id == boot_id()
        return same_boot and bool(self.readings) and all(reading.within for reading in self.readings)

    def moment(self, told: float) -> Moment:
        """When that was. Raises LabError when the readings contradict each other, so that nothing can be said."""
        if self.shared:
            return Moment.at(told)
        if not self.readings:
            raise LabError(f"the clock of {self.node} was never read")
        earliest = max(told + r.sent - r.told - DRIFT * abs(told - r.told) for r in self.readings)
        latest = min(told + r.received - r.told + DRIFT * abs(told - r.told) for r in self.readings)
        if earliest > latest:
            raise LabError(f"the monotonic clock of {self.node} jumped during the run; its times say nothing")
        return Moment(earliest, latest)

    @property
    def words(self) -> str:
        """How sure its times are, for people."""
        if self.shared:
            return f"{self.node} shares the controller's clock: same boot id, {len(self.readings)} readings in order"
        return f"{self.node} has a clock of its own, known to {self._width() * 1000:.1f} ms"

    def _width(self) -> float:
        if not self.readings:
            return float("inf")
        middle = self.moment(self.readings[len(self.readings) // 2].told)
        return middle.latest - middle.earliest


def boot_id() -> str:
    """Which boot of which kernel this is; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
