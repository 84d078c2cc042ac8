"""Many add to one set: whatever was acknowledged is there, for everybody. Registrations of agents are such a set."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from laila.errors import BadConfig
from laila.lab.checkers import sets
from laila.lab.checkers.operations import Op
from laila.lab.checkers.verdict import Judgement
from laila.lab.workloads.base import Invocation, Keyed, Script, Who
from laila.lab.workloads.register import unique


@dataclass
class GrowSet(Keyed):
    """Clients add elements that nobody else adds, and list all."""

    ratio: float = 0.8
    """Share of additions."""
    most: int = 400
    """Elements that one client adds at most; then it only lists."""
    pause: float = 0.02
    """Seconds between a client's operations at most."""

    name: ClassVar[str] = "set"
    summary: ClassVar[str] = "whatever was added and acknowledged is listed by everybody from then on"
    ops: ClassVar[tuple[str, ...]] = ("add", "list")
    what: ClassVar[str] = "elements"
    noun: ClassVar[str] = "element"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 or self.most < 1 or self.pause < 0:
            raise BadConfig(
                f"{self.name} needs a ratio between 0 and 1, most of 1 or more and a pause of 0 or more"
            )

    def script(self, who: Who, chance: random.Random) -> Script:
        added = 0
        while True:
            pause = chance.uniform(0, self.pause)
            if added < self.most and chance.random() < self.ratio:
                added += 1
                yield Invocation(
                    "add", self.prefix + self.what, f"{self.noun}-{unique(who, added)}", pause=pause
                )
            else:
                yield Invocation("list", self.prefix + self.what, pause=pause)

    def closing(self, who: Who) -> Script:
        yield Invocation("list", self.prefix + self.what)

    def judge(self, ops: Sequence[Op]) -> list[Judgement]:
        return sets.judge_all(ops, self.noun)


@dataclass
class Registrations(GrowSet):
    """The same with agents: `add` registers one, `list` gives the names of all that are registered."""

    name: ClassVar[str] = "registrations"
    summary: ClassVar[str] = "no registration that was acknowledged is lost"
    what: ClassVar[str] = "agents"
    noun: ClassVar[str] = "agent"
