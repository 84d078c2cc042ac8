"""The core of the judge of registers: which operations of one register contradict each other, in O(n log n).

Linearizable means: each operation can be thought of as done at one instant between its beginning and its end, such
that every read gives what the last write before it wrote. Every write writes a value that nobody else ever writes, so
it is known which write a read has seen, and the question can be decided exactly, after Gibbons and Korach ("Testing
shared memories", 1997):

- The operations with one value (its write and its reads) are a *cluster*. They follow each other without another
  value in between, so a cluster has a zone: from the earliest end to the latest beginning in it.
- A history is right when no read ends before its write begins, and no two clusters must each come before the other:
  no operation of either begins after one of the other has ended, in both directions.

It works on columns of plain values and numbers, so that a million operations take seconds. Operations are numbered:
first the writes in their order, then the reads. Who they are is known to the caller, which puts them into words.
"""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from laila.lab.checkers.operations import short

PHANTOM = "a value that nobody wrote"
EARLY = "a value before its write was begun"
LOST = "an acknowledged write that is not there"
STALE = "a value older than an acknowledged one"
BACK = "a value older than one that was read before"

EXPLAINED = 10_000
"""So many contradictions are looked at for the smallest explanation; all are counted."""
LOOKED = 2_000_000
"""So many reads are looked at to make explanations smaller."""

Say = Callable[[int], str]


@dataclass(slots=True)
class Columns:
    """Operations side by side: what each wrote or read, and between when, in seconds. An open end is infinite."""

    values: list[Hashable] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Operations that cannot all be, by number, in the order in which the sentence names them."""

    kind: str
    chosen: tuple[int | None, ...]
    """(read,) or (read, write), else (a, b, c, d): `a` of the older value ended before `b` of the newer one began, and
    `c` of the newer one before `d`. `a` is None when the older value is what was there in the beginning."""

    @property
    def offender(self) -> int:
        """The one that ought to have been otherwise: a read."""
        number = self.chosen[0] if self.kind in (PHANTOM, EARLY) else self.chosen[-1]
        assert number is not None
        return number

    @property
    def numbers(self) -> tuple[int, ...]:
        """Each once."""
        return tuple(dict.fromkeys(number for number in self.chosen if number is not None))

    def text(self, say: Say) -> str:
        """In words; `say` names an operation."""
        if self.kind == PHANTOM:
            return f"{say(self.offender)}, which no write ever wrote"
        if self.kind == EARLY:
            return f"{say(self.offender)} was over before {say(self.numbers[1])} was begun"
        ended, begun, seen, offender = self.chosen
        assert begun is not None and seen is not None and offender is not None  # noqa: PT018  one fact
        was = "had ended" if self.kind == BACK else "was acknowledged"
        said = f"{say(offender)} began after {say(seen)} {was}"
        if ended is None:
            return said
        if begun == seen:
            return f"{said}, and that one after {say(ended)} had ended"
        return f"{said}, and {say(ended)} had ended before {say(begun)} was begun"


def contradictions(writes: Columns, reads: Columns) -> tuple[int, Contradiction | None]:
    """How many a sweep meets, and the smallest; (0, None) when the history is right.

    The register holds None in the beginning. No value is written twice, none is None, nothing ends before it starts:
    see `undecidable`.
    """
    zones = _Zones(writes, reads)
    count, found = zones.gather()
    pairs = zones.conflicts()
    count += len(pairs)
    if found is None and pairs:
        found = zones.smallest(pairs)
    return count, found


def undecidable(writes: Columns, reads: Columns, say: Say) -> str:
    """Why nothing can be said about this history; empty when something can."""
    if len(set(writes.values)) < len(writes.values):
        seen: set[Hashable] = set()
        value = next(one for one in writes.values if one in seen or seen.add(one))  # type: ignore[func-returns-value]  # adds
        times = writes.values.count(value)
        return f"{short(value)} was written {times} times, so it cannot be known which write a read has seen"
    if None in writes.values:
        return (
            f"{say(writes.values.index(None))} wrote nothing, which is also what was there in the beginning"
        )
    first = 0
    for columns in (writes, reads):
        if not all(map(operator.le, columns.starts, columns.ends)):
            fits = [*map(operator.le, columns.starts, columns.ends)]
            return f"{say(first + fits.index(False))} ended before it began: the clocks say nothing"
        first += len(columns.values)
    return ""


class _Zones:
    """Clusters by number: that of write n is n, and the last one is what was there in the beginning."""

    def __init__(self, writes: Columns, reads: Columns) -> None:
        self.writes, self.reads = writes, reads
        self.count = len(writes.values)
        self.cluster: dict[Hashable, int] = {value: n for n, value in enumerate(writes.values)}
        self.cluster[None] = self.count
        self.ended = [*writes.ends, -math.inf]
        """The earliest end in each cluster; the beginning ended before everything."""
        self.begun = [*writes.starts, -math.inf]
        """The latest beginning."""
        self.first = [*range(self.count), -1]
        """Which operation ended first."""
        self.last = [*range(self.count), -1]
        """Which one began last."""

    def gather(self) -> tuple[int, Contradiction | None]:
        """Put the reads to their writes. Those that have none, or came before theirs, are told and left out."""
        cluster, ended, begun, first, last = self.cluster, self.ended, self.begun, self.first, self.last
        written = [*self.writes.starts, -math.inf]
        strays: list[int] = []
        columns = zip(self.reads.values, self.reads.starts, self.reads.ends, strict=True)
        for number, (value, start, end) in enumerate(columns, self.count):
            own = cluster.get(value)
            if own is None or end < written[own]:
                strays.append(number)
                continue
            if end < ended[own]:
                ended[own], first[own] = end, number
            if start > begun[own]:
                begun[own], last[own] = start, number
        if not strays:
            return 0, None
        return len(strays), min(
            (self._stray(n) for n in strays), key=lambda one: self._size(one.chosen, one.offender)
        )

    def conflicts(self) -> list[tuple[int, int]]:
        """Pairs of which each must come before the other: each has ended something before the other began its last.

        At least one of two such clusters has a forward zone (it ended something before it began its last), and the
        other one's reaches into it. One pair is told for each cluster that reaches into another.
        """
        ended, begun = self.ended, self.begun
        forward = [n for n in range(self.count + 1) if ended[n] < begun[n]]
        forward.sort(key=ended.__getitem__)
        starts = [ended[n] for n in forward]
        farthest: list[int] = []
        found = []
        far = -1
        for n in forward:
            if far >= 0 and ended[n] < begun[far]:
                found.append((far, n))
            if far < 0 or begun[n] > begun[far]:
                far = n
            farthest.append(far)
        if not forward:
            return []
        for n in range(self.count + 1):
            if ended[n] >= begun[n]:
                turn = bisect.bisect_left(starts, begun[n])
                if turn and ended[n] < begun[farthest[turn - 1]]:
                    found.append((farthest[turn - 1], n))
        return found

    def smallest(self, pairs: Sequence[tuple[int, int]]) -> Contradiction:
        """Of the first of them, the one with the fewest operations, and of those the earliest."""
        chosen = pairs[:EXPLAINED]
        members: dict[int, list[int]] = {n: [] for pair in chosen for n in pair}
        for number, value in enumerate(self.reads.values, self.count):
            own = self.cluster.get(value)
            if own in members:
                members[own].append(number)
        budget = LOOKED
        best: tuple[tuple[int, float], Contradiction] | None = None
        for one, other in chosen:
            older, newer = (one, other) if self._is_older(one, other) else (other, one)
            inside = members[newer] if len(members[newer]) <= budget else []
            budget -= len(inside)
            found = self._contradiction(older, newer, inside)
            size = self._size(found.chosen, found.offender)
            if best is None or size < best[0]:
                best = size, found
        assert best is not None
        return best[1]

    def _stray(self, read: int) -> Contradiction:
        own = self.cluster.get(self.reads.values[read - self.count])
        return Contradiction(PHANTOM, (read,)) if own is None else Contradiction(EARLY, (read, own))

    def _size(self, chosen: Sequence[int | None], offender: int) -> tuple[int, float]:
        return len({number for number in chosen if number is not None}), self._end(offender)

    def _is_older(self, one: int, other: int) -> bool:
        """Whether `one` is the older value: what was there in the beginning is, or what was written first; where nobody
        knows, the one that was read later.
        """
        if self.count in (one, other):
            return one == self.count
        if self.writes.ends[one] < self.writes.starts[other]:
            return True
        if self.writes.ends[other] < self.writes.starts[one]:
            return False
        if not self._is_read(self.last[one]):
            return False
        return not self._is_read(self.last[other]) or self.begun[one] >= self.begun[other]

    def _contradiction(self, older: int, newer: int, inside: Sequence[int]) -> Contradiction:
        """In the fewest operations: the same one twice where that can be, and writes before reads."""
        offender = self.last[older]
        limit, until = self.ended[older], self._start(offender)
        known = list(dict.fromkeys((newer, self.first[newer], self.last[newer])))
        begins = [n for n in known if self._start(n) > limit]
        seen = [n for n in known if self._end(n) < until]
        both = [n for n in begins if n in seen][:1]
        if not both:
            both = next(([n] for n in inside if self._start(n) > limit and self._end(n) < until), [])
        ends = [None] if older == self.count else [older, self.first[older]]
        choices = [
            (a, b, c, offender)
            for a in ends
            for b in (*both, *begins)
            for c in (*both, *seen)
            if (-math.inf if a is None else self._end(a)) < self._start(b)
        ]
        chosen = min(choices, key=self._weight)
        acknowledged = not self._is_read(chosen[2])
        kind = BACK if not acknowledged else LOST if older == self.count else STALE
        return Contradiction(kind, chosen)

    def _weight(self, chosen: Sequence[int | None]) -> tuple[int, int]:
        told = [number for number in chosen if number is not None]
        return len(set(told)), sum(self._is_read(number) for number in told)

    def _is_read(self, number: int) -> bool:
        return number >= self.count

    def _start(self, number: int) -> float:
        return self.writes.starts[number] if number < self.count else self.reads.starts[number - self.count]

    def _end(self, number: int) -> float:
        return self.writes.ends[number] if number < self.count else self.reads.ends[number - self.count]
