"""Is a node there, by what it says to a stranger? Asked from outside the mechanism that a fault uses.

A door that did not answer before the fault says nothing while it lasts: so a bell is made while its node answers.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass

from laila.errors import LailaError
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults import knock
from laila.lab.faults.struck import PATIENCE

WAITS = 1.0
"""Seconds without a word that count as silence; an answer takes milliseconds."""
_HERE = ""


@dataclass(frozen=True, slots=True)
class Ring:
    """What came of it."""

    state: str
    seconds: float
    why: str = ""

    @property
    def answered(self) -> bool:
        return self.state == knock.ANSWERS

    def __str__(self) -> str:
        if self.answered:
            return f"answers in {self.seconds * 1000:.0f} ms"
        return f"{self.state} ({self.why})" if self.why else f"{self.state} for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Doorbell:
    """The door of one node, and from where it is knocked at: this machine, or beside another node."""

    driver: Driver
    node: str
    host: str
    port: int
    asker: str
    before: Ring

    @classmethod
    def of(cls, driver: Driver, node: str, patience: float = 2.0) -> Doorbell | None:
        """Of a node that runs. None when it answers nobody: then its silence will show nothing."""
        address = driver.address(node)
        port = address.port if driver.topology.foreign else address.status_port
        others = [name for name in driver.topology.names if name != node]
        for asker in (_HERE, *others) if driver.near else others:
            ring = _ring(driver, asker, address.host, port, patience)
            if ring is not None and ring.answered:
                return cls(driver, node, address.host, port, asker, ring)
        return None

    def ring(self, patience: float = WAITS) -> Ring | None:
        """None when there is nobody any more to knock."""
        return _ring(self.driver, self.asker, self.host, self.port, patience)

    def __str__(self) -> str:
        beside = f", asked from {self.asker}" if self.asker else ""
        return f"{self.host}:{self.port}{beside}"


def _ring(driver: Driver, asker: str, host: str, port: int, patience: float) -> Ring | None:
    if not port:
        return None
    if asker == _HERE:
        return Ring(*knock.knock(host, port, patience))
    if driver.state(asker) is not NodeState.RUNNING:
        return None
    words = ["python3", "-c", inspect.getsource(knock), host, str(port), str(patience)]
    try:
        told = driver.exec(asker, words, timeout=patience + PATIENCE)
    except LailaError:
        return None  # it has no Python
    return Ring(*json.loads(told.stdout)) if told.code == 0 else None
