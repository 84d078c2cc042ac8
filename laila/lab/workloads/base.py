"""What clients do to a system, as data, and how what they did is judged.

A workload is a seeded generator for each client: it yields an `Invocation` and is given the `Op` that became of it, so
it can go by the answer (release what was acquired, swap what was read). It knows nothing of how a system is reached: a
client program beside a node, one on this machine or a Python object takes the invocation and says ok, fail or unknown.
"""

from __future__ import annotations

import abc
import dataclasses
import random
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from laila.lab.checkers.operations import Op
from laila.lab.checkers.verdict import Judgement


@dataclass(frozen=True, slots=True)
class Invocation:
    """Ask for this. `words` are more of the request's own, beside `op`, `key` and `value`."""

    op: str
    key: str
    value: Any = None
    timeout: float = 0.0
    """Seconds; 0 is the run's own."""
    words: Mapping[str, Any] = field(default_factory=dict)
    pause: float = 0.0
    """Seconds to wait before it is asked: a pace, not a bound. Nobody's client is busy meanwhile."""


@dataclass(frozen=True, slots=True)
class Who:
    """One logical client: the `number`th beside `node`. `clients` says how many there are of them in all."""

    name: str
    node: str
    number: int
    clients: int
    nodes: tuple[str, ...]
    incarnation: int = 0
    """How often a client before it in this place ended with an outcome that nobody knows."""


Script = Generator[Invocation, Op, None]
"""Yields what to ask for, is sent what became of it. Endless, or until it has done its part."""


class Workload(abc.ABC):
    """`name` is what `--workloads` takes, `ops` the operations that a client must offer for it.

    A workload is a dataclass: its fields are its options, plain JSON values, kept with the history so that it is judged
    again by the same.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    ops: ClassVar[tuple[str, ...]]
    also: ClassVar[tuple[str, ...]] = ()
    """Operations that it uses where the client offers them."""
    offered: Collection[str] | None = None
    """All that the client offers, once that is known; None: take it that it offers everything."""

    def opening(self, who: Who) -> Script:
        """Once, by one client, before the others begin: make what is needed. Nothing unless overridden."""
        yield from ()

    @abc.abstractmethod
    def script(self, who: Who, chance: random.Random) -> Script:
        """What this client does all the time, faults or not."""

    def closing(self, who: Who) -> Script:
        """What every client does once, after all faults are healed: final reads. Nothing unless overridden."""
        yield from ()

    @abc.abstractmethod
    def judge(self, ops: Sequence[Op]) -> list[Judgement]:
        """Pure: the operations of this workload, in any order, and what they mean. One judgement for each name."""

    def settings(self) -> dict[str, Any]:
        """Its options as they are, for the history."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]  # every workload is a dataclass

    def offers(self, *ops: str) -> bool:
        """Whether the client can be asked for all of these."""
        return self.offered is None or set(ops) <= set(self.offered)


@dataclass
class Keyed(Workload):
    """A workload on names of its own."""

    prefix: str = ""
    """Stands before every name, so that runs on one system do not meet."""
