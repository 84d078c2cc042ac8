"""A fault: something is broken on purpose, shown to be broken, mended, and shown to be mended.

A fault that cannot be shown to bite is an error of the lab, never a pass. What is about to be done is written into the
ledger before it is done, so that it is undone also when this process is killed.
"""

from __future__ import annotations

import abc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from laila.errors import BadConfig, LabError
from laila.lab.drivers.base import Driver
from laila.lab.faults.spec import FaultSpec


class NoBite(LabError):
    """The fault was done and nothing was broken by it: whatever the nodes did meanwhile shows nothing."""


class NotHealed(LabError):
    """The fault was undone, and its effect is still there."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a fault: its default, its unit and what it means. The type is the default's."""

    default: float | int | str
    text: str
    unit: str = ""
    least: float = 0.0
    most: float = float("inf")


@dataclass(slots=True)
class Scene:
    """Where faults are done: the nodes by their driver, a seeded random, and what is to be told to whom.

    `ready` waits until a node that was started works again (it raises what the nodes did wrong); `left` is called
    before a node is killed or stopped, so that clients beside it are known to die of it.
    """

    driver: Driver
    names: tuple[str, ...]
    chance: random.Random
    ready: Callable[[str], None] = lambda node: None
    left: Callable[[str], None] = lambda node: None
    tell: Callable[[str], None] = lambda text: None
    holders: Callable[[], Mapping[str, tuple[str, int]]] = lambda: {}
    """Client programs that are in a critical section now, by name: the node that each runs beside, and its pid there.
    One is listed from the answer that let it in until just before it is asked to leave.
    """
    doomed: Callable[[str], None] = lambda client: None
    """Called with the name of a client program before it is killed."""
    within: float = 30.0
    """Seconds that a proof may take."""
    until: float = 0.0
    """Seconds since the epoch until which faults go on without this process; 0: they end with it."""
    agents: dict[str, Any] = field(default_factory=dict)
    """Open fault agents by node: `laila.lab.faults.hands.hand(scene, node)` opens and reuses them."""


@dataclass(frozen=True, slots=True)
class Bite:
    """One fault that was done. Times are the controller's monotonic clock; proofs say how it is known."""

    spec: str
    kind: str
    nodes: tuple[str, ...]
    """Whom the report shades."""
    injecting: float
    injected: float
    healing: float
    healed: float
    proof: str
    proof_of_healing: str

    def to_dict(self, began: float) -> dict[str, Any]:
        """For the report; seconds since the run began."""
        times = {
            "from": self.injecting - began,
            "bitten": self.injected - began,
            "to": self.healing - began,
            "healed": self.healed - began,
        }
        return {
            "spec": self.spec,
            "what": self.kind,
            "nodes": list(self.nodes),
            "proof": self.proof,
            "proof_of_healing": self.proof_of_healing,
            **{key: round(value, 4) for key, value in times.items()},
        }


class Fault(abc.ABC):
    """One fault of one kind, done once. The order of calls is inject, prove, heal, prove_healed; heal may come at any
    time, also twice, also from another process (`undo`).
    """

    kind: ClassVar[str]
    """Its name: lower-case words joined by `-`."""
    summary: ClassVar[str]
    """For `laila lab fault list`: what is broken, in a phrase."""
    options: ClassVar[Mapping[str, Option]] = {}
    breaks_clients: ClassVar[bool] = False
    """Programs beside its nodes die of it."""
    silences: ClassVar[bool] = False
    """Programs beside its nodes do nothing while it lasts."""

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        """Chooses its nodes. Raises BadConfig for nodes, groups or options that it cannot take."""
        self.scene = scene
        self.spec = spec
        if unknown := sorted(set(spec.options) - set(self.options)):
            known = ", ".join(self.options) or "none"
            raise BadConfig(f"{self.kind} has no option {', '.join(unknown)}; it has {known}")

    @classmethod
    @abc.abstractmethod
    def hindrance(cls, driver: Driver) -> str:
        """Why it cannot be done with this driver on this machine, with what to do about it; empty when it can."""

    @classmethod
    def hindrance_of(cls, driver: Driver, spec: FaultSpec) -> str:
        """The same of one spec, whose options may make a difference."""
        return cls.hindrance(driver)

    @property
    @abc.abstractmethod
    def nodes(self) -> tuple[str, ...]:
        """Those that it strikes."""

    @abc.abstractmethod
    def inject(self) -> dict[str, Any]:
        """Do it. Returns facts for `undo`, as plain JSON; what must be known before it is done goes through
        `self.remember(**facts)` earlier.
        """

    @abc.abstractmethod
    def prove(self) -> str:
        """Measure that it has bitten; how that is known, with numbers. Raises NoBite."""

    @abc.abstractmethod
    def heal(self) -> None:
        """Undo it. Not an error when there is nothing to undo any more."""

    @abc.abstractmethod
    def prove_healed(self) -> str:
        """Measure that it is over; how that is known. Raises NotHealed."""

    @classmethod
    @abc.abstractmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """Heal from what the ledger says, in another process than the one that did it. Idempotent."""

    # -- for all

    def option(self, name: str) -> Any:
        """Its value: of the spec, else the default. Raises BadConfig for one that is out of bounds."""
        known = self.options[name]
        if name not in self.spec.options:
            return known.default
        text = self.spec.options[name]
        try:
            value = type(known.default)(text)
        except ValueError:
            raise BadConfig(f"{self.kind}: {name}={text!r} is no {type(known.default).__name__}") from None
        if not isinstance(value, str) and not known.least <= value <= known.most:
            raise BadConfig(f"{self.kind}: {name} must be {known.least:g} to {known.most:g}, not {text}")
        return value

    def remember(self, **facts: Any) -> None:
        """Write facts into the ledger now. Bound by the one who runs the fault (`laila.lab.faults.ledger`)."""
        self._keep(facts)

    _keep: Callable[[dict[str, Any]], None] = staticmethod(lambda facts: None)

    def until(self, done: Callable[[], bool], error: type[LabError], waiting_for: str) -> float:
        """Ask until it is so; the seconds that it took. Raises `error` that says on what it waited."""
        began = time.monotonic()
        while not done():
            if time.monotonic() - began > self.scene.within:
                raise error(f"{self.spec}: waited {self.scene.within:g} s for {waiting_for}")
            time.sleep(0.05)
        return time.monotonic() - began
