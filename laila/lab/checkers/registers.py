"""A register that many write and read at once: was every answer one that a single copy could have given?

Linearizable means: each operation can be thought of as done at one instant between its beginning and its end, such
that every read gives what the last write before it wrote. Every write writes a value that nobody else ever writes, so
it is known which write a read has seen, and the question can be decided exactly, in O(n log n), after Gibbons and
Korach ("Testing shared memories", 1997):

- The operations with one value (its write and its reads) are a *cluster*. They follow each other without another
  value in between, so a cluster has a zone: from the earliest end to the latest beginning in it.
- A history is right when no read ends before its write begins, and no two clusters must each come before the other:
  no operation of either begins after one of the other has ended, in both directions.

What cannot be known accuses nobody. Times are bounds and intervals are as wide as they allow. A write that was not
acknowledged may take effect at any later time, or never; a read that failed says nothing and is left out.
"""

from __future__ import annotations

import bisect
import enum
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from laila.lab.checkers.fault import Fault
from laila.lab.clocks import Moment

PHANTOM = "a value that nobody wrote"
EARLY = "a value before its write was begun"
LOST = "an acknowledged write that is not there"
STALE = "a value older than an acknowledged one"
BACK = "a value older than one that was read before"
WRITTEN, GOT = "put", "get"
"""The kinds of lines in a history (`what`)."""


@dataclass(frozen=True, slots=True)
class Write:
    """Somebody wrote `value`, which nobody else writes, or tried to. `ended` is None when it was not acknowledged."""

    client: str
    node: str
    name: str
    value: str
    began: Moment
    ended: Moment | None

    @property
    def start(self) -> float:
        return self.began.earliest

    @property
    def end(self) -> float:
        return math.inf if self.ended is None else self.ended.latest

    def __str__(self) -> str:
        when = (
            f"{self.start:.4f} to {self.end:.4f} s" if self.ended else f"from {self.start:.4f} s, no answer"
        )
        return f"the write of {short(self.value)} by {self.client} ({when})"

    def to_record(self, began: float) -> dict[str, Any]:
        """For the history; times are seconds since the run began."""
        ended = None if self.ended is None else self.ended.since(began)
        plain = {key: getattr(self, key) for key in ("client", "node", "name", "value")}
        return {**plain, "began": self.began.since(began), "ended": ended}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Write:
        ended = None if record["ended"] is None else Moment(*record["ended"])
        plain = {key: record[key] for key in ("client", "node", "name", "value")}
        return cls(**plain, began=Moment(*record["began"]), ended=ended)


@dataclass(frozen=True, slots=True)
class Read:
    """Somebody read `value`; None is that there is nothing yet."""

    client: str
    node: str
    name: str
    value: str | None
    began: Moment
    ended: Moment

    @property
    def start(self) -> float:
        return self.began.earliest

    @property
    def end(self) -> float:
        return self.ended.latest

    def __str__(self) -> str:
        found = "found nothing" if self.value is None else f"gave {short(self.value)}"
        return f"the read by {self.client} that {found} ({self.start:.4f} to {self.end:.4f} s)"

    def to_record(self, began: float) -> dict[str, Any]:
        """For the history; times are seconds since the run began."""
        plain = {key: getattr(self, key) for key in ("client", "node", "name", "value")}
        return {**plain, "began": self.began.since(began), "ended": self.ended.since(began)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Read:
        plain = {key: record[key] for key in ("client", "node", "name", "value")}
        return cls(**plain, began=Moment(*record["began"]), ended=Moment(*record["ended"]))


Operation = Write | Read


class Verdict(enum.Enum):
    """`unknown` never passes: nothing could be decided."""

    OK = "ok"
    ILLEGAL = "illegal"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a history cannot be: the few operations that contradict each other."""

    kind: str
    text: str
    operations: tuple[Operation, ...]
    offender: Operation
    """The one that ought to have been otherwise: a read."""

    @property
    def fault(self) -> Fault:
        return Fault(self.kind, self.text, self.offender.end, self.offender.node)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found of one name."""

    name: str
    verdict: Verdict
    writes: int
    reads: int
    why: Explanation | None = None
    """The smallest explanation of an illegal history."""
    faults: int = 0
    """How many contradictions there are."""
    reason: str = ""
    """Why nothing could be decided."""

    def __str__(self) -> str:
        said = self.reason if self.why is None else str(self.why.fault)
        return f"{self.name}: {self.verdict.value}" + (f", {said}" if said else "")


def short(value: str) -> str:
    """A value as explanations name it."""
    return value if len(value) <= 12 else f"{value[:8]}…"


def judge_all(writes: Iterable[Write], reads: Iterable[Read]) -> list[Judgement]:
    """Each name by itself, which is enough: registers do not depend on each other. Sorted by name."""
    by_name: dict[str, tuple[list[Write], list[Read]]] = defaultdict(lambda: ([], []))
    for write in writes:
        by_name[write.name][0].append(write)
    for read in reads:
        by_name[read.name][1].append(read)
    return [judge(*by_name[name], name=name) for name in sorted(by_name)]


def judge(writes: Sequence[Write], reads: Sequence[Read], *, name: str = "") -> Judgement:
    """The history of one register, which holds nothing in the beginning."""
    counts = (len(writes), len(reads))
    if reason := _undecidable(writes, reads):
        return Judgement(name, Verdict.UNKNOWN, *counts, reason=reason)
    found = _explain(writes, reads)
    if not found:
        return Judgement(name, Verdict.OK, *counts)
    smallest = min(found, key=lambda one: (len(one.operations), one.offender.end))
    return Judgement(name, Verdict.ILLEGAL, *counts, why=smallest, faults=len(found))


def judge_lines(lines: Iterable[str]) -> list[Judgement]:
    """The same from the lines of a saved `history.jsonl`."""
    records = [record for record in map(json.loads, lines) if record.get("what") in (WRITTEN, GOT)]
    writes = [Write.from_record(record) for record in records if record["what"] == WRITTEN]
    return judge_all(writes, [Read.from_record(record) for record in records if record["what"] == GOT])


def _undecidable(writes: Sequence[Write], reads: Sequence[Read]) -> str:
    value, times = next(iter(Counter(write.value for write in writes).most_common(1)), ("", 0))
    if times > 1:
        return f"{short(value)} was written {times} times, so it cannot be known which write a read has seen"
    operations: tuple[Operation, ...] = (*writes, *reads)
    for operation in operations:
        if not operation.start <= operation.end:
            return f"{operation} ended before it began: the clocks say nothing"
    return ""


@dataclass(slots=True)
class _Cluster:
    """The operations with one value. `write` is None for what was there in the beginning."""

    write: Write | None
    reads: list[Read] = field(default_factory=list)
    first: Operation | None = None
    """The operation that ended first; None is the beginning itself."""
    last: Operation | None = None
    """The one that began last."""

    @property
    def ended(self) -> float:
        return -math.inf if self.first is None else self.first.end

    @property
    def begun(self) -> float:
        return -math.inf if self.last is None else self.last.start

    def close(self) -> None:
        """All reads are there: find the zone. The beginning ended before everything."""
        operations: list[Operation] = [*self.reads]
        if self.write is not None:
            operations.append(self.write)
            self.first = min(operations, key=lambda one: one.end)
        if operations:
            self.last = max(operations, key=lambda one: one.start)


def _explain(writes: Sequence[Write], reads: Sequence[Read]) -> list[Explanation]:
    """One explanation for each contradiction that a sweep meets; none when the history is right."""
    found = []
    clusters: dict[str | None, _Cluster] = {None: _Cluster(None), **{w.value: _Cluster(w) for w in writes}}
    for read in reads:
        cluster = clusters.get(read.value)
        if cluster is None:
            found.append(Explanation(PHANTOM, f"{read}, which no write ever wrote", (read,), read))
        elif cluster.write is not None and read.end < cluster.write.start:
            text = f"{read} was over before {cluster.write} was begun"
            found.append(Explanation(EARLY, text, (read, cluster.write), read))
        else:
            cluster.reads.append(read)
    for cluster in clusters.values():
        cluster.close()
    return found + [_contradiction(*pair) for pair in _conflicts([*clusters.values()])]


def _conflicts(clusters: Sequence[_Cluster]) -> list[tuple[_Cluster, _Cluster]]:
    """Pairs of which each must come before the other: each has ended something before the other began its last.

    At least one of two such clusters has a forward zone (it ended something before it began its last), and the other
    one's reaches into it. One pair is told for each cluster that reaches into another.
    """
    forward = sorted((c for c in clusters if c.ended < c.begun), key=lambda cluster: cluster.ended)
    backward = [cluster for cluster in clusters if cluster.ended >= cluster.begun]
    starts = [cluster.ended for cluster in forward]
    farthest: list[_Cluster] = []
    for cluster in forward:
        last = farthest[-1] if farthest else cluster
        farthest.append(cluster if cluster.begun > last.begun else last)
    found = [
        (before, cluster)
        for before, cluster in zip(farthest, forward[1:], strict=False)
        if cluster.ended < before.begun
    ]
    for cluster in backward:
        turn = bisect.bisect_left(starts, cluster.begun)
        if turn and cluster.ended < farthest[turn - 1].begun:
            found.append((farthest[turn - 1], cluster))
    return found


def _contradiction(one: _Cluster, other: _Cluster) -> Explanation:
    """In the fewest operations. The offender is a read of the value that is older, though it came later."""
    older, newer = (one, other) if _is_older(one, other) else (other, one)
    chosen = _fewest(older, newer)
    _, _, seen, offender = chosen
    said = _why_older(older, *chosen)
    if isinstance(seen, Write):
        kind = STALE if older.write is not None else LOST
        text = f"{offender} began after {seen} was acknowledged{said}"
    else:
        kind, text = BACK, f"{offender} began after {seen} had ended{said}"
    operations = sorted({id(o): o for o in chosen if o is not None}.values(), key=lambda o: (o.start, o.end))
    return Explanation(kind, text, tuple(operations), offender)


def _is_older(one: _Cluster, other: _Cluster) -> bool:
    """Whether `one` is the older value: what was there in the beginning is, else the one that was read later."""
    if one.write is None or other.write is None:
        return one.write is None
    if not isinstance(one.last, Read):
        return False
    return not isinstance(other.last, Read) or one.begun >= other.begun


_Chosen = tuple[Operation | None, Operation, Operation, Operation]
"""(a, b, c, d): `a` of the older value ended before `b` of the newer one began, and `c` of the newer one before `d`."""


def _fewest(older: _Cluster, newer: _Cluster) -> _Chosen:
    """The same operation twice where that can be, and writes before reads."""
    offender = older.last
    assert offender is not None  # a cluster without operations conflicts with nobody
    ends: list[Operation | None] = [older.write, older.first]
    begins = _of(newer, lambda o: o.start > older.ended)
    seen = _of(newer, lambda o: o.end < offender.start)
    both = [o for o in _all(newer) if o.start > older.ended and o.end < offender.start][:1]
    choices = [
        (a, b, c, offender)
        for a in ends
        for b in (*both, *begins)
        for c in (*both, *seen)
        if (-math.inf if a is None else a.end) < b.start
    ]
    return min(choices, key=lambda c: (len({id(o) for o in c if o}), sum(isinstance(o, Read) for o in c)))


def _of(cluster: _Cluster, fits: Callable[[Operation], bool]) -> list[Operation]:
    """Of its write, its first and its last those that fit, each once."""
    told = {id(o): o for o in (cluster.write, cluster.first, cluster.last) if o is not None and fits(o)}
    return list(told.values())


def _all(cluster: _Cluster) -> list[Operation]:
    return [*([] if cluster.write is None else [cluster.write]), *cluster.reads]


def _why_older(
    older: _Cluster, ended: Operation | None, begun: Operation, seen: Operation, offender: Operation
) -> str:
    if older.write is None:
        return ""
    if begun is seen:
        return f", and that one after {ended} had ended"
    return f", and {ended} had ended before {begun} was begun"
