"""Every node is asked all the time whom it sees: both ends of a link say the same, and in the end all are up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from laila.errors import BadConfig
from laila.lab.checkers import peering
from laila.lab.checkers.operations import Op
from laila.lab.checkers.verdict import Judgement
from laila.lab.workloads.base import Invocation, Script, Who, Workload


@dataclass
class Peering(Workload):
    """One client beside each node is enough; more of them ask more often."""

    every: float = 0.2
    """Seconds between two questions."""
    grace: float = 10.0
    """Seconds for which one end may list the other while that does not list it."""
    within: float = 30.0
    """Seconds in the end until every node must list every other."""

    name: ClassVar[str] = "peering"
    summary: ClassVar[str] = "both ends of every link say the same, and in the end every link is up"
    ops: ClassVar[tuple[str, ...]] = ("peers",)

    def __post_init__(self) -> None:
        if self.every <= 0 or self.grace < 2 * self.every or self.within < 0:
            raise BadConfig(
                "peering needs every above 0, a grace of twice that or more, and within of 0 or more"
            )

    def script(self, who: Who, chance: random.Random) -> Script:
        while True:
            yield Invocation("peers", peering.DURING, pause=self.every * chance.uniform(0.75, 1.25))

    def closing(self, who: Who) -> Script:
        others = {node for node in who.nodes if node != who.node}
        began: float | None = None
        while True:
            seen = yield Invocation("peers", peering.CLOSING, pause=0.0 if began is None else self.every)
            began = seen.start if began is None else began
            if (seen.ok and others <= set(seen.result)) or seen.start - began >= self.within:
                return

    def judge(self, ops: Sequence[Op]) -> list[Judgement]:
        return peering.judge(ops, self.grace)
