"""Many want the same few locks: one has it at a time, tokens rise, and what only the lock protects loses nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from laila.errors import BadConfig
from laila.lab.checkers import guarded, locks
from laila.lab.checkers.operations import Op
from laila.lab.checkers.tenures import tenures
from laila.lab.checkers.verdict import Judgement
from laila.lab.checkers.wing_gong import Bounds
from laila.lab.workloads.base import Invocation, Keyed, Script, Who
from laila.lab.workloads.register import unique


@dataclass
class Lock(Keyed):
    """A client acquires, and while it has the lock it reads a counter and writes the next number; then it releases."""

    keys: int = 1
    wait: float = 5.0
    """Seconds that it waits for a lock. Not to have got it by then is a refusal."""
    hold: float = 0.02
    """Seconds that it keeps one at most, beside what reading and writing take."""
    pause: float = 0.05
    """Seconds between letting go and asking again at most."""
    lease: float = 0.0
    """Seconds after which the lock is taken from whoever has it; 0: never."""
    counter: bool = True
    """Count under the lock, where the client can read and write."""
    fenced: bool = False
    """The counter's store refuses writes with a token that was overtaken."""
    seconds: float = 20.0
    """That the judge may search for an order."""
    points: int = 1_000_000
    """That it may look at; each takes some 300 bytes."""

    name: ClassVar[str] = "lock"
    summary: ClassVar[str] = "locks exclude each other, fencing tokens rise, and nothing is lost under them"
    ops: ClassVar[tuple[str, ...]] = ("acquire", "release")
    also: ClassVar[tuple[str, ...]] = ("read", "write")

    def __post_init__(self) -> None:
        if self.keys < 1 or self.points < 1 or self.seconds <= 0:
            raise BadConfig("lock needs keys and points of 1 or more, and seconds above 0")
        if min(self.wait, self.hold, self.pause, self.lease) < 0:
            raise BadConfig("lock needs wait, hold, pause and lease of 0 or more")

    def script(self, who: Who, chance: random.Random) -> Script:
        counting = self.counter and self.offers(*self.also)
        turn = 0
        while True:
            turn += 1
            key = f"{self.prefix}lock-{chance.randrange(self.keys)}"
            words, pause = {"wait": self.wait}, chance.uniform(0, self.pause)
            hold = chance.uniform(0, self.hold)
            # the answer must have time to come after the waiting
            got = yield Invocation("acquire", key, words=words, timeout=self.wait + 5.0, pause=pause)
            if got.ok:
                if counting:
                    yield from _count(f"{key}-counter", unique(who, turn), got.result, hold / 2)
                yield Invocation("release", key, pause=hold / 2 if counting else hold)

    def judge(self, ops: Sequence[Op]) -> list[Judgement]:
        taken = tenures(ops, self.lease)
        bounds = Bounds(self.seconds, self.points)
        return locks.judge_taken(taken, self.lease, bounds) + guarded.judge_all(ops, taken, self.fenced)


def _count(key: str, mark: str, token: Any, pause: float) -> Script:
    """Read the counter and write the next number, with the token that shows who may."""
    read = yield Invocation("read", key)
    if read.ok:
        value = f"{_number(read.result) + 1}:{mark}"
        yield Invocation("write", key, value, words={"token": token}, pause=pause)


def _number(value: Any) -> int:
    """What the counter stands at; whatever is no counter counts as 0, and the judge sees it."""
    head = str(value).partition(":")[0]
    return int(head) if head.isdecimal() else 0
