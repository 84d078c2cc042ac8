"""Versions of one artifact under one name: what readers may see, given who published what, when.

Writers publish under a lock, so every version has a sequence number, and all of them have one order. That makes the
judgement exact (a linearizable register) and cheap: a read must return a whole version that somebody published or
tried to; none older than what was acknowledged before the read began; none that was only begun after it ended; and
none older than what an earlier read has returned, wherever it was.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laila.lab.checkers.fault import Fault, in_order
from laila.lab.clocks import Moment

TORN = "bytes that nobody published"
STALE = "a version older than an acknowledged one"
EARLY = "a version that was not begun yet"
BACK = "a version older than an earlier reader's"
TWICE = "two versions with one sequence number"
DISORDER = "a later version with a smaller sequence number"
ERROR = "an operation that failed without a reason"


@dataclass(frozen=True, slots=True)
class Write:
    """A version that was published, or tried. `print` is the fingerprint of its content, never twice the same."""

    client: str
    node: str
    print: str
    sequence: int | None
    """None when its writer did not live to tell."""
    began: Moment
    ended: Moment | None
    """None when it was never acknowledged: it may come into effect at any later time, or never."""

    @property
    def acknowledged(self) -> bool:
        return self.ended is not None

    def __str__(self) -> str:
        number = "of unknown number" if self.sequence is None else str(self.sequence)
        return f"version {number} by {self.client}"

    def to_record(self, began: float) -> dict[str, Any]:
        """For the history; times are seconds since the run began."""
        ended = None if self.ended is None else self.ended.since(began)
        plain = {key: getattr(self, key) for key in ("client", "node", "print", "sequence")}
        return {**plain, "began": self.began.since(began), "ended": ended}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Write:
        ended = None if record["ended"] is None else Moment(*record["ended"])
        plain = {key: record[key] for key in ("client", "node", "print", "sequence")}
        return cls(**plain, began=Moment(*record["began"]), ended=ended)


@dataclass(frozen=True, slots=True)
class Read:
    """What a reader was given. `how` is the verb: load, load_cached."""

    client: str
    node: str
    how: str
    print: str
    sequence: int
    began: Moment
    ended: Moment

    def __str__(self) -> str:
        return f"{self.how} by {self.client} gave version {self.sequence}"

    def to_record(self, began: float) -> dict[str, Any]:
        """For the history; times are seconds since the run began."""
        plain = {key: getattr(self, key) for key in ("client", "node", "how", "print", "sequence")}
        return {**plain, "began": self.began.since(began), "ended": self.ended.since(began)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Read:
        plain = {key: record[key] for key in ("client", "node", "how", "print", "sequence")}
        return cls(**plain, began=Moment(*record["began"]), ended=Moment(*record["ended"]))


def judge(writes: Sequence[Write], reads: Sequence[Read]) -> list[Fault]:
    """Everything that is wrong with the versions of one name, in the order of time."""
    return in_order([*_numbers(writes), *_contents(writes, reads), *_floor(writes, reads), *_back(reads)])


def _numbers(writes: Sequence[Write]) -> list[Fault]:
    """Acknowledged versions have numbers that rise with time, each once."""
    found = []
    seen: dict[int, Write] = {}
    for write in writes:
        if write.ended is None or write.sequence is None:
            continue
        if (other := seen.setdefault(write.sequence, write)) is not write:
            text = f"{write} and by {other.client}"
            found.append(Fault(TWICE, text, write.ended.latest, write.node))
    floor = _Floor([(w.ended.latest, w.sequence, str(w)) for w in seen.values() if w.ended and w.sequence])
    for write in seen.values():
        least, who = floor.before(write.began.earliest)
        if write.sequence is not None and write.sequence < least:
            found.append(
                Fault(DISORDER, f"{write} began after {who} was done", write.began.earliest, write.node)
            )
    return found


def _contents(writes: Sequence[Write], reads: Sequence[Read]) -> list[Fault]:
    """A read gives exactly what one write wrote, under that write's number, and not before that write began."""
    by_print = {write.print: write for write in writes}
    found = []
    for read in reads:
        write = by_print.get(read.print)
        if write is None:
            found.append(Fault(TORN, str(read), read.ended.latest, read.node))
        elif write.sequence not in (None, read.sequence):
            text = f"{read} with the content of {write}"
            found.append(Fault(TORN, text, read.ended.latest, read.node))
        elif read.ended.surely_before(write.began):
            found.append(Fault(EARLY, f"{read} before {write} was begun", read.ended.latest, read.node))
    return found


def _floor(writes: Sequence[Write], reads: Sequence[Read]) -> list[Fault]:
    floor = _Floor(
        [(w.ended.latest, w.sequence, str(w)) for w in writes if w.ended and w.sequence is not None]
    )
    found = []
    for read in reads:
        least, who = floor.before(read.began.earliest)
        if read.sequence < least:
            late = (read.began.earliest - floor.at(least)) * 1000
            text = f"{read}, {late:.1f} ms after {who} was acknowledged"
            found.append(Fault(STALE, text, read.ended.latest, read.node))
    return found


def _back(reads: Sequence[Read]) -> list[Fault]:
    floor = _Floor([(read.ended.latest, read.sequence, str(read)) for read in reads])
    found = []
    for read in reads:
        least, who = floor.before(read.began.earliest)
        if read.sequence < least:
            found.append(Fault(BACK, f"{read}, after {who}", read.ended.latest, read.node))
    return found


class _Floor:
    """The greatest number that was known by a given time."""

    def __init__(self, known: Sequence[tuple[float, int, str]]) -> None:
        self._times: list[float] = []
        self._most: list[tuple[int, str]] = []
        self._first: dict[int, float] = {}
        for time, number, who in sorted(known):
            self._first.setdefault(number, time)
            if not self._most or number > self._most[-1][0]:
                self._times.append(time)
                self._most.append((number, who))

    def before(self, time: float) -> tuple[int, str]:
        turn = bisect.bisect_left(self._times, time)
        return self._most[turn - 1] if turn else (-1, "")

    def at(self, number: int) -> float:
        return self._first.get(number, 0.0)
