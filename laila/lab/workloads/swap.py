"""Many compare and set the same few names: every swap takes the value that is there, and takes it once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from laila.errors import BadConfig
from laila.lab.checkers import swaps
from laila.lab.checkers.operations import Op
from laila.lab.checkers.verdict import Judgement
from laila.lab.checkers.wing_gong import Bounds
from laila.lab.workloads.base import Invocation, Keyed, Script, Who
from laila.lab.workloads.register import unique


@dataclass
class Swap(Keyed):
    """A client reads, and swaps what it read for something new; now and then it writes without looking."""

    keys: int = 4
    """Few, so that they are contended for."""
    writes: float = 0.1
    """Share of plain writes."""
    swaps: float = 0.5
    """Share of swaps; the rest are reads."""
    pause: float = 0.01
    """Seconds between a client's operations at most."""
    seconds: float = 20.0
    """That the judge may search for an order of one key's operations."""
    points: int = 1_000_000
    """That it may look at; each takes some 300 bytes."""

    name: ClassVar[str] = "cas"
    summary: ClassVar[str] = "compare-and-set of a few names is linearizable"
    ops: ClassVar[tuple[str, ...]] = ("read", "write", "cas")

    def __post_init__(self) -> None:
        if self.keys < 1 or self.pause < 0 or self.seconds <= 0 or self.points < 1:
            raise BadConfig(
                "cas needs keys and points of 1 or more, a pause of 0 or more and seconds above 0"
            )
        if self.writes < 0 or self.swaps <= 0 or self.writes + self.swaps >= 1:
            raise BadConfig("cas needs shares of writes and swaps that leave something for reads")

    def opening(self, who: Who) -> Script:
        for number in range(self.keys):
            yield Invocation("write", f"{self.prefix}cas-{number}", f"{unique(who, 0)}-opening-{number}")

    def script(self, who: Who, chance: random.Random) -> Script:
        known: dict[str, Any] = {}
        turn = 0
        while True:
            key, dice = f"{self.prefix}cas-{chance.randrange(self.keys)}", chance.random()
            pause = chance.uniform(0, self.pause)
            turn += 1
            if dice < self.writes:
                done = yield Invocation("write", key, unique(who, turn), pause=pause)
                if done.ok:
                    known[key] = done.value
            elif dice < self.writes + self.swaps and known.get(key) is not None:
                done = yield Invocation("cas", key, [known[key], unique(who, turn)], pause=pause)
                if done.ok and done.result is True:
                    known[key] = done.value[1]
                else:
                    known.pop(key)  # somebody else was faster: look again
            else:
                done = yield Invocation("read", key, pause=pause)
                if done.ok:
                    known[key] = done.result

    def closing(self, who: Who) -> Script:
        for number in range(self.keys):
            yield Invocation("read", f"{self.prefix}cas-{number}")

    def judge(self, ops: Sequence[Op]) -> list[Judgement]:
        return swaps.judge_all(ops, Bounds(self.seconds, self.points))
