"""The smallest explanation: of calls that have no order, a few that have none by themselves.

A part is a contradiction of its own only if whatever else happened cannot resolve it. So what is left out of it is not
forgotten but weakened: a call that may have changed something stays, as one that may be done at any time after its
start, or never. Then whatever the rest did is allowed for, and the whole is illegal because the part is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from laila.lab.checkers.verdict import Verdict
from laila.lab.checkers.wing_gong import Bounds, Call, Found

Unit = tuple[Call, ...]
"""Calls that are left out together."""
Judge = Callable[[Sequence[Unit], Bounds], Found]
"""Whether these units have an order beside all others, weakened."""

SECONDS = 3.0
"""For all of it, of computing. What is left then is a contradiction too, only not the smallest."""
STEP = Bounds(seconds=1.0, points=100_000)
"""For one question. What is not decided within it is not left out."""
FIRST = 4
"""So many of the last units are tried first."""


def smallest(
    units: Sequence[Unit],
    blocked: Call,
    judge: Judge,
    related: Callable[[Unit], bool],
    seconds: float = SECONDS,
) -> list[Unit]:
    """Of units that have no order those that contradict each other; each is needed, unless time ran out.

    `related` are those that the blocked call most likely contradicts, wherever they are: they are tried first.
    """
    end = time.thread_time() + seconds

    def illegal(kept: Sequence[Unit]) -> bool:
        left = min(STEP.seconds, end - time.thread_time())
        return left > 0 and judge(kept, Bounds(left, STEP.points)).verdict is Verdict.ILLEGAL

    beginning = [unit for unit in units if min(call.start for call in unit) <= blocked.end]
    beginning.sort(key=lambda unit: (blocked in unit, related(unit), max(call.start for call in unit)))
    kept = _last(beginning, illegal)
    size = max(1, len(kept) // 2)
    while time.thread_time() < end:
        smaller = _without(kept, size, illegal)
        if size == 1 and len(smaller) == len(kept):
            break
        kept, size = smaller, max(1, min(size, len(smaller)) // 2)
    return kept


def _last(order: list[Unit], illegal: Callable[[Sequence[Unit]], bool]) -> list[Unit]:
    """As few of the last ones as are illegal, by doubling."""
    count = FIRST
    while count < len(order):
        if illegal(order[-count:]):
            return order[-count:]
        count *= 4
    return order


def _without(kept: list[Unit], size: int, illegal: Callable[[Sequence[Unit]], bool]) -> list[Unit]:
    """Leave out pieces of `size` from the front on, wherever what is left is still illegal."""
    at = 0
    while at < len(kept):
        fewer = kept[:at] + kept[at + size :]
        if fewer and illegal(fewer):
            kept = fewer
        else:
            at += size
    return kept
