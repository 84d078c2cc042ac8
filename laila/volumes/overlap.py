"""Whether two nodes held one lock at the same time, and whether what was counted under it was lost. Pure.

Times come in the conductor's clock, each known up to its node's slack; holds that overlap by more than that were
held at the same time, whatever the clocks say. Numbers need no clock: each hold wrote one more than it had read, so
with exclusion and fresh reads every number appears once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold of the lock: between two times, surely, up to `slack`; `number` is what it wrote."""

    node: str
    entered: float
    left: float
    number: int
    slack: float = 0.0


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two holds at the same time, for `seconds` beyond doubt."""

    one: Hold
    other: Hold
    seconds: float


def overlaps(holds: Sequence[Hold]) -> list[Overlap]:
    """Holds of different nodes that were held together, by time; of more than one partner the longest."""
    found: list[Overlap] = []
    open_holds: list[Hold] = []
    for hold in sorted(holds, key=lambda hold: hold.entered - hold.slack):
        begin = hold.entered - hold.slack
        open_holds = [other for other in open_holds if other.left + other.slack > begin]
        doubtless = [
            Overlap(other, hold, seconds)
            for other in open_holds
            if other.node != hold.node and (seconds := _shared(other, hold)) > 0
        ]
        if doubtless:
            found.append(max(doubtless, key=lambda overlap: overlap.seconds))
        open_holds.append(hold)
    return found


def _shared(one: Hold, other: Hold) -> float:
    return min(one.left, other.left) - max(one.entered, other.entered) - one.slack - other.slack


def lost(holds: Sequence[Hold], final: int | None) -> int:
    """How many of the holds left no trace: numbers written twice, and what is missing at the end. `final`: the number
    that the last one found, None when it was none.
    """
    numbers = Counter(hold.number for hold in holds)
    twice = sum(times - 1 for times in numbers.values())
    return max(twice, len(holds) - (final or 0), 0)
