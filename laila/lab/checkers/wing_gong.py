"""Is there an order? The search of Wing and Gong, with Lowe's memo, for any sequential model, and with bounds.

It looks for an order of all calls that have ended, and of some of those that have not, in which each stands between its
start and its end and the model allows each. A point of the search is which calls are ordered already and the state that
they lead to; none is visited twice. Four things keep it small, and none of them changes the answer:

- A call that is possible now and only looks is taken at once: it hinders nobody.
- An open call is tried only where it makes another call possible, and after all else; of those that are alike only the
  earliest unused one.
- A point from which less can be done than from one that was visited (it used more of the open calls) is not visited.
- Ordered calls are kept as a number (all before it) and a bit set for the few after it.

It is exponential in what goes on at once, so it is bounded in seconds and in points. What could not be decided within
these is unknown.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from laila.lab.checkers.operations import Op
from laila.lab.checkers.verdict import Verdict

IMPOSSIBLE: Final = object()
"""What a model's step gives for a call that the state does not allow."""
LOOK = 256
"""Points between two looks at the clock."""
BITS = 2000
"""A point with so many bits counts as two."""

Step = Callable[[Any, tuple[Any, ...]], Any]
"""(state, what) to the state after it, or IMPOSSIBLE. States are hashable. Of two states that differ by an open call, a
call that is possible in both and changes both leads to the same.
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be spent on one history: seconds of computing, so that a busy machine does not change the verdict,
    and points, which take some 300 bytes each.
    """

    seconds: float = 20.0
    points: int = 1_000_000


USUAL: Final = Bounds()


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """`what` is for the model. An infinite end: it may be done any time after its start, or never."""

    what: tuple[Any, ...]
    start: float
    end: float
    op: Op
    """Where it comes from."""
    looks: bool = False
    """It never changes anything, wherever it is possible."""

    @property
    def open(self) -> bool:
        return self.end == math.inf


@dataclass(frozen=True, slots=True)
class Found:
    """`blocked` is the call that no order gets past: what started until its end is the shortest illegal beginning."""

    verdict: Verdict
    points: int
    seconds: float
    ordered: int
    """How many ended calls were in the longest order."""
    of: int
    blocked: Call | None = None
    reason: str = ""
    """Why it was not decided, and how far it came."""


def search(initial: Hashable, step: Step, calls: Iterable[Call], bounds: Bounds = USUAL) -> Found:
    """Whether the calls have an order. Starts are before ends."""
    return _Search(initial, step, calls, bounds).run()


@dataclass(slots=True)
class _Point:
    """`base`: all closed calls before it are ordered; `mask`: bits of those from there on. `first` and `used`: the same
    of open calls."""

    base: int
    mask: int
    first: int
    used: int
    state: Any
    until: float = 0.0
    """The earliest end of a closed call that is not ordered: what starts later cannot be next."""
    branches: list[tuple[int, Any]] = field(default_factory=list)
    """What can be next: a closed call's number, or an open one's as -1 - number; and the state after it."""
    closed_only: bool = True
    """The open calls that can be next are not among the branches yet."""


class _Search:
    def __init__(self, initial: Hashable, step: Step, calls: Iterable[Call], bounds: Bounds) -> None:
        ordered = sorted(calls, key=lambda call: call.start)
        self.closed = [call for call in ordered if not call.open]
        self.opened = [call for call in ordered if call.open]
        self.initial, self.step, self.bounds = initial, step, bounds
        self.starts = [call.start for call in self.closed]
        self.ends = [call.end for call in self.closed]
        self.whats = [call.what for call in self.closed]
        self.looks = [call.looks for call in self.closed]
        self.alike = _alike(self.opened)
        self.farthest, self.blocked, self.ordered = -math.inf, -1, 0

    def run(self) -> Found:
        began = time.thread_time()
        seen: dict[tuple[int, int, Any], list[int]] = {}
        stack: list[_Point] = []
        point: _Point | None = _Point(0, 0, 0, 0, self.initial)
        points = kept = 0
        while point is not None:
            if not self._settle(point):
                return self._found(Verdict.OK, points, began)
            used = point.used << point.first | (1 << point.first) - 1
            if _was_here(seen.setdefault((point.base, point.mask, point.state), []), used):
                point = self._back(stack)
                continue
            points += 1
            kept += 1 + (used.bit_length() + point.mask.bit_length()) // BITS
            if points % LOOK == 0 and time.thread_time() - began > self.bounds.seconds:
                return self._given_up(f"after {self.bounds.seconds:g} s of computing", points, began)
            if kept > self.bounds.points:
                return self._given_up(f"after {points:,} points", points, began)
            if len(point.branches) > 1 or self._has_open(point):
                stack.append(point)
                point = self._back(stack)
                continue
            if not stack:
                seen.clear()  # there is only one way here, and no way back
                kept = 0
            point = self._next(point) if point.branches else self._back(stack)
        return self._found(Verdict.ILLEGAL, points, began)

    def _settle(self, point: _Point) -> bool:
        """Order what only looks, and find the branches. False when everything that ended is ordered."""
        starts, ends, whats, looks, step = self.starts, self.ends, self.whats, self.looks, self.step
        base, mask, state, count = point.base, point.mask, point.state, len(starts)
        again = True
        while again:
            again = False
            while mask & 1:
                mask >>= 1
                base += 1
            if base == count:
                return False
            branches = []
            first_end, first = math.inf, -1
            number = base
            while number < count and starts[number] <= first_end:
                if not mask >> (number - base) & 1:
                    if ends[number] < first_end:
                        first_end, first = ends[number], number
                    after = step(state, whats[number])
                    if after is not IMPOSSIBLE:
                        if looks[number]:
                            mask |= 1 << (number - base)
                            again = True
                        else:
                            branches.append((number, after))
                number += 1
        point.base, point.mask = base, mask
        if first_end > self.farthest:
            self.farthest, self.blocked = first_end, first
            self.ordered = base + mask.bit_count()
        if len(branches) > 1:
            branches.sort(key=lambda branch: ends[branch[0]], reverse=True)
        point.branches, point.until = branches, first_end
        return True

    def _has_open(self, point: _Point) -> bool:
        """Whether an open call may be next."""
        while point.used & 1:
            point.used >>= 1
            point.first += 1
        return point.first < len(self.opened) and self.opened[point.first].start <= point.until

    def _open_branches(self, point: _Point) -> list[tuple[int, Any]]:
        """Open calls that make possible what is not."""
        step, state, opened = self.step, point.state, self.opened
        able: list[tuple[int, Any]] = []
        stuck: list[tuple[Any, ...]] = []
        for number in range(point.first, len(opened)):
            if opened[number].start > point.until:
                break
            if not point.used >> (number - point.first) & 1:
                after = step(state, opened[number].what)
                if after is IMPOSSIBLE:
                    stuck.append(opened[number].what)
                elif after != state and not self._one_before(point, number):
                    able.append((-1 - number, after))
        number = point.base
        while number < len(self.starts) and self.starts[number] <= point.until:
            if not point.mask >> (number - point.base) & 1 and step(state, self.whats[number]) is IMPOSSIBLE:
                stuck.append(self.whats[number])
            number += 1
        helpful = [one for one in able if any(step(one[1], what) is not IMPOSSIBLE for what in stuck)]
        helpful.reverse()
        return helpful

    def _one_before(self, point: _Point, number: int) -> bool:
        """Whether an open call that does the same is unused."""
        before = self.alike[number] - point.first
        return before >= 0 and not point.used >> before & 1

    def _next(self, point: _Point) -> _Point:
        number, after = point.branches.pop()
        mask, used = point.mask, point.used
        if number < 0:
            used |= 1 << (-1 - number - point.first)
        else:
            mask |= 1 << (number - point.base)
        return _Point(point.base, mask, point.first, used, after)

    def _back(self, stack: list[_Point]) -> _Point | None:
        """The next way that was not tried, from the last point that has one."""
        while stack:
            point = stack[-1]
            if not point.branches and point.closed_only:
                point.closed_only = False
                point.branches = self._open_branches(point)
            if point.branches:
                following = self._next(point)
                if not point.branches and not point.closed_only:
                    stack.pop()
                return following
            stack.pop()
        return None

    def _found(self, verdict: Verdict, points: int, began: float) -> Found:
        ok = verdict is Verdict.OK
        blocked = None if ok or self.blocked < 0 else self.closed[self.blocked]
        ordered = len(self.closed) if ok else self.ordered
        return Found(verdict, points, time.thread_time() - began, ordered, len(self.closed), blocked)

    def _given_up(self, why: str, points: int, began: float) -> Found:
        far = f"{self.ordered} of {len(self.closed)} operations, until {self.farthest:.4f} s"
        reason = f"the search was given up {why}: it has an order of {far}"
        seconds = time.thread_time() - began
        return Found(Verdict.UNKNOWN, points, seconds, self.ordered, len(self.closed), reason=reason)


def _was_here(known: list[int], used: int) -> bool:
    """Whether this point was visited, or one with the same calls ordered and fewer open ones used: from there can be
    reached whatever can be reached from here. Else it is kept.
    """
    for other in known:
        if other & used == other:
            return True
    known[:] = [other for other in known if other & used != used]
    known.append(used)
    return False


def _alike(opened: Sequence[Call]) -> list[int]:
    """For each open call the one before it that does the same, or -1."""
    last: dict[tuple[Hashable, ...], int] = {}
    found = []
    for number, call in enumerate(opened):
        found.append(last.get(call.what, -1))
        last[call.what] = number
    return found
