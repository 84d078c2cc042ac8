"""The ways between nodes, whatever carries them: what can be done to them, and how that is measured.

Packets where an agent works in each node's network (`packet_wires`), else the links of a driver that carries them by a
program of its own (`link_wires`). Whichever it is, faults ask the same things of it, and their proofs dial, send and
count for themselves.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from laila.lab.drivers.base import Driver, Lever
from laila.lab.faults.base import Scene
from laila.lab.faults.sides import Way

CONNECTED = "connected"
REFUSED = "refused"
RESET = "reset"
ANSWERED = "answered"


@dataclass(frozen=True, slots=True)
class Effect:
    """What is done to what travels a way."""

    drop: bool = False
    new: bool = False
    """Drop only what opens a connection."""
    loss: float = 0.0
    """Of all packets, 0 to 1."""
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    kbit: int = 0
    reset: bool = False
    """Connections that stand are reset."""
    again: bool = False
    """Later ones too."""
    refuse: bool = False
    """New connections are."""


@dataclass(frozen=True, slots=True)
class Dial:
    """What came of dialing: `connected` when a first byte came back too. Seconds until then, or until the end."""

    outcome: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.outcome == CONNECTED

    def __str__(self) -> str:
        return f"{self.outcome} in {self.seconds * 1000:.1f} ms"


class Wires(abc.ABC):
    """All ways between the nodes of a scene."""

    unit: ClassVar[str]
    """What `hits` counts."""

    @abc.abstractmethod
    def impose(self, fault: str, ways: Sequence[Way], effect: Effect) -> None:
        """Do that to these ways from now on, under the fault's name. Raises LabError."""

    @abc.abstractmethod
    def lift(self, fault: str) -> None:
        """Undo it, all of it. Nothing to undo is no error."""

    @abc.abstractmethod
    def hits(self, fault: str) -> int:
        """How much has met it so far."""

    @abc.abstractmethod
    def knock(self, way: Way) -> None:
        """Send something that way, whether anybody is there or not, for what is imposed to meet."""

    # -- measuring: raises LabError only when a node cannot be asked

    @abc.abstractmethod
    def dial(self, way: Way, patience: float) -> Dial:
        """A new connection from the one to the other, and one byte there and back."""

    @abc.abstractmethod
    def arrived(self, way: Way, count: int) -> tuple[int, int]:
        """Send so many from the one to the other, and nothing back: (sent, arrived)."""

    @abc.abstractmethod
    def trips(self, way: Way, count: int, patience: float) -> list[float]:
        """Seconds of so many round trips on one connection; fewer when one took longer than `patience`."""

    @abc.abstractmethod
    def pour(self, way: Way, nbytes: int, patience: float) -> float:
        """Send so many bytes; kbit/s at which they came in, 0 when they did not."""

    @abc.abstractmethod
    def stand(self, way: Way) -> None:
        """Have a connection that stays. Nothing when there can be none now."""

    @abc.abstractmethod
    def talk(self, way: Way, patience: float) -> str:
        """A byte there and back on the connection that stays, on a new one when there was none: `answered`, or what
        became of it.
        """

    def end(self) -> None:  # noqa: B027  most have nothing to let go of
        """Hang up connections that stay."""


def of(scene: Scene) -> Wires:
    """Those of a scene, by what its driver can do."""
    from laila.lab.faults.link_wires import LinkWires
    from laila.lab.faults.packet_wires import PacketWires

    if by_packets(scene.driver):
        return PacketWires(scene)
    return LinkWires(scene)


def by_packets(driver: Driver) -> bool:
    return driver.lever(Lever.PACKETS) == ""


def hindrance(driver: Driver, feature: str, links_cannot: str = "") -> str:
    """Why nothing can be done to ways here, with what to do; empty when it can. `feature` is what the agent needs;
    `links_cannot` says why a program that carries links could not do it.
    """
    if not (why := driver.lever(Lever.PACKETS)):
        return driver.lacks(feature)
    return why if driver.lever(Lever.LINKS) else links_cannot


def undo(driver: Driver, by: str, fault: str, nodes: Sequence[str]) -> None:
    """Lift it from a process that did not impose it."""
    from laila.lab.faults import hands

    if by == "links":
        driver.links.clear(fault)
    else:
        hands.clear(driver, fault, nodes)
