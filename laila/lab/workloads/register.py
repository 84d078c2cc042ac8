"""Many write and read the same few names: was every answer one that a single copy could have given?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from laila.errors import BadConfig
from laila.lab.checkers import atomic, integrity
from laila.lab.checkers.operations import Op
from laila.lab.checkers.verdict import Judgement
from laila.lab.workloads.base import Invocation, Keyed, Script, Who

_TURNS = 10
"""Of writing or reading, before a client only watches for a while."""


@dataclass
class Register(Keyed):
    """Every value is written once, and carries its own checksum."""

    keys: int = 4
    """Few, so that they are contended for."""
    ratio: float = 0.4
    """How often a client writes in a turn, and does not read."""
    size: int = 64
    """Characters of a value at most, beside who wrote it and its checksum."""
    watch: int = 40
    """Reads in a row after every ten turns: who only watches sees what comes and goes while others write."""
    pause: float = 0.01
    """Seconds between a client's operations at most."""

    name: ClassVar[str] = "register"
    summary: ClassVar[str] = "reads and writes of a few names are linearizable, and no damaged value is read"
    ops: ClassVar[tuple[str, ...]] = ("read", "write")

    def __post_init__(self) -> None:
        if self.keys < 1 or not 0 < self.ratio < 1 or self.watch < 0 or self.size < 0 or self.pause < 0:
            raise BadConfig(
                "register needs keys of 1 or more, a ratio between 0 and 1, and watch, size and pause of 0 or more"
            )

    def opening(self, who: Who) -> Script:
        for number in range(self.keys):  # else few clients in a short run may leave a name that nobody wrote
            value = integrity.sealed(f"{unique(who, 0)}-opening-{number}:")
            yield Invocation("write", f"{self.prefix}register-{number}", value)

    def script(self, who: Who, chance: random.Random) -> Script:
        turn = 0
        while True:
            for step in range(_TURNS + self.watch):
                key = f"{self.prefix}register-{chance.randrange(self.keys)}"
                pause = chance.uniform(0, self.pause)
                if step < _TURNS and chance.random() < self.ratio:
                    turn += 1
                    value = integrity.sealed(unique(who, turn) + ":" + "x" * chance.randint(0, self.size))
                    yield Invocation("write", key, value, pause=pause)
                else:
                    yield Invocation("read", key, pause=pause)

    def closing(self, who: Who) -> Script:
        for number in range(self.keys):
            yield Invocation("read", f"{self.prefix}register-{number}")

    def judge(self, ops: Sequence[Op]) -> list[Judgement]:
        return [*atomic.judge_all(ops), integrity.judge(ops)]


def unique(who: Who, turn: int) -> str:
    """A text that no other client makes, and this one only once."""
    return f"{who.name}.{who.incarnation}.{turn}"
