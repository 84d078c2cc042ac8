"""What a test did to nodes by hand, in order: faults with their proofs, nodes killed and started, programs run beside
them. It is written down only for a test that failed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from laila.lab.faults import FaultSpec
from laila.lab.history import History, Told
from laila.lab.trials.turns import Turn


@dataclass(frozen=True, slots=True)
class Deed:
    """`what` as in a history; `at` by the monotonic clock."""

    what: str
    text: str
    node: str
    at: float
    peer: str = ""


@dataclass(slots=True)
class Deeds:
    """Of one test. Falsy while nothing was done."""

    began: float = field(default_factory=time.monotonic)
    started: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    turns: list[Turn] = field(default_factory=list)
    _done: list[Deed] = field(default_factory=list)
    _taken: bool = False

    def __bool__(self) -> bool:
        return bool(self._done)

    def note(self, what: str, text: str, node: str) -> None:
        """Something was done to a node."""
        self._done.append(Deed(what, text[:300], node, time.monotonic()))

    def refused(self, specs: Sequence[FaultSpec], error: Exception) -> None:
        """Faults that were asked for and did not come about, or were not over."""
        asked, said = "+".join(map(str, specs)), str(error)
        text = said if said.startswith(asked) else f"{asked}: {said}"
        self._done.append(Deed("note", text[:300], "", time.monotonic()))

    def strikes(self, turn: Turn) -> None:
        """A fault was injected; its times and proofs are filled in as they come."""
        self.turns.append(turn)
        self._done += [Deed("fault", str(turn.fault.spec), node, turn.injecting) for node in turn.fault.nodes]

    def take(self, told: Told, began: float) -> None:
        """What a history knows that was begun then."""
        self.began, self._taken = min(self.began, began), True
        for one in told.events:
            words = (one["what"], one["text"], one.get("node", ""), began + one["t"], one.get("peer", ""))
            self._done.append(Deed(*words))

    def tell(self, history: History, nodes: Sequence[str]) -> list[dict[str, Any]]:
        """All of it into a history; the faults, as a report takes them. The nodes ran when the test began."""
        history.began = self.began
        for node in () if self._taken else nodes:
            history.event("up", "ran when the test began", node=node, at=self.began)
        over = [
            Deed("heal", f"{turn.fault.spec} is over", node, turn.healed or turn.healing)
            for turn in self.turns
            if turn.healing
            for node in turn.fault.nodes
        ]
        for one in sorted([*self._done, *over], key=lambda deed: deed.at):
            history.event(one.what, one.text, node=one.node, peer=one.peer, at=one.at)
        now = time.monotonic()
        bites = [replace(turn, healing=turn.healing or now, healed=turn.healed or now) for turn in self.turns]
        return [turn.bite.to_dict(self.began) for turn in bites]
