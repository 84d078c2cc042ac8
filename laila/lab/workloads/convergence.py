"""Names are written while things break; when all is healed, every node comes to hold the same of each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from laila.errors import BadConfig
from laila.lab.checkers import convergence
from laila.lab.checkers.operations import Op
from laila.lab.checkers.verdict import Judgement
from laila.lab.workloads.base import Invocation, Keyed, Script, Who
from laila.lab.workloads.register import unique


@dataclass
class Convergence(Keyed):
    """Everybody writes the same names. In the end each asks its own node for the digests, until all are equal."""

    keys: int = 16
    within: float = 10.0
    """Seconds after everything is healed in which all nodes must become equal."""
    every: float = 0.25
    """Seconds between two questions."""
    pause: float = 0.05
    """Seconds between a client's writes at most."""

    name: ClassVar[str] = "convergence"
    summary: ClassVar[str] = "when everything is healed, all nodes come to hold the same"
    ops: ClassVar[tuple[str, ...]] = ("write", "digest")

    def __post_init__(self) -> None:
        if self.keys < 1 or self.within <= 0 or self.every <= 0 or self.pause < 0:
            raise BadConfig(
                "convergence needs keys of 1 or more, within and every above 0, and a pause of 0 or more"
            )
        self._last: dict[str, Any] = {}

    def script(self, who: Who, chance: random.Random) -> Script:
        turn = 0
        while True:
            turn += 1
            key = f"{self.prefix}converge-{chance.randrange(self.keys)}"
            yield Invocation("write", key, unique(who, turn), pause=chance.uniform(0, self.pause))

    def closing(self, who: Who) -> Script:
        """All clients know from each other when they have seen the same: then nobody need ask any more."""
        began: float | None = None
        while True:
            told = yield Invocation("digest", "all", pause=0.0 if began is None else self.every)
            began = told.start if began is None else began
            if told.ok:
                self._last[who.node] = told.result
            if self._equal(who.nodes) or told.start - began >= self.within:
                return

    def judge(self, ops: Sequence[Op]) -> list[Judgement]:
        return [convergence.judge(ops, self.within)]

    def _equal(self, nodes: Sequence[str]) -> bool:
        told = [self._last.get(node) for node in nodes]
        return all(one is not None and one == told[0] for one in told)
