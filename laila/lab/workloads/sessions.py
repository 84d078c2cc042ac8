"""Each name has one writer who counts up: no client reads backwards, and each reads what it wrote."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from laila.errors import BadConfig
from laila.lab.checkers import sessions
from laila.lab.checkers.operations import Op
from laila.lab.checkers.verdict import Judgement
from laila.lab.workloads.base import Invocation, Keyed, Script, Who

STEP = 1_000_000
"""A writer that comes after another in the same place goes on from the next multiple of it."""


@dataclass
class Sessions(Keyed):
    """The first client beside each node writes its own key; everybody reads all keys."""

    ratio: float = 0.4
    """Share of writes, of those who write."""
    pause: float = 0.01
    """Seconds between a client's operations at most."""

    name: ClassVar[str] = "sessions"
    summary: ClassVar[str] = "no client reads backwards (monotonic reads), and each reads its own writes"
    ops: ClassVar[tuple[str, ...]] = ("read", "write")

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 or self.pause < 0:
            raise BadConfig("sessions needs a ratio between 0 and 1 and a pause of 0 or more")

    def script(self, who: Who, chance: random.Random) -> Script:
        own = f"{self.prefix}session-{who.node}"
        number = who.incarnation * STEP
        while True:
            pause = chance.uniform(0, self.pause)
            if who.number == 0 and chance.random() < self.ratio:
                number += 1
                yield Invocation("write", own, number, pause=pause)
            else:
                yield Invocation("read", f"{self.prefix}session-{chance.choice(who.nodes)}", pause=pause)

    def closing(self, who: Who) -> Script:
        for node in who.nodes:
            yield Invocation("read", f"{self.prefix}session-{node}")

    def judge(self, ops: Sequence[Op]) -> list[Judgement]:
        return sessions.judge_all(ops)
