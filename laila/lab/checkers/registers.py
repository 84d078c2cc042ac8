"""A register that many write and read at once: was every answer one that a single copy could have given?

Every write writes a value that nobody else ever writes, so linearizability is decided exactly, in O(n log n), by zones
(`laila.lab.checkers.zones`).

What cannot be known accuses nobody. Times are bounds and intervals are as wide as they allow. A write that was not
acknowledged may take effect at any later time, or never; a read that failed says nothing and is left out.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laila.lab.checkers import zones
from laila.lab.checkers.fault import Fault
from laila.lab.checkers.verdict import Verdict
from laila.lab.checkers.zones import BACK, EARLY, LOST, PHANTOM, STALE
from laila.lab.clocks import Moment

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
    operations: tuple[Operation, ...] = (*writes, *reads)
    wrote, got = _columns(writes), _columns(reads)

    def say(number: int) -> str:
        return str(operations[number])

    if reason := zones.undecidable(wrote, got, say):
        return Judgement(name, Verdict.UNKNOWN, *counts, reason=reason)
    faults, found = zones.contradictions(wrote, got)
    if found is None:
        return Judgement(name, Verdict.OK, *counts)
    chosen = sorted((operations[n] for n in found.numbers), key=lambda one: (one.start, one.end))
    why = Explanation(found.kind, found.text(say), tuple(chosen), operations[found.offender])
    return Judgement(name, Verdict.ILLEGAL, *counts, why=why, faults=faults)


def judge_lines(lines: Iterable[str]) -> list[Judgement]:
    """The same from the lines of a saved `history.jsonl`."""
    records = [record for record in map(json.loads, lines) if record.get("what") in (WRITTEN, GOT)]
    writes = [Write.from_record(record) for record in records if record["what"] == WRITTEN]
    return judge_all(writes, [Read.from_record(record) for record in records if record["what"] == GOT])


def _columns(operations: Sequence[Operation]) -> zones.Columns:
    return zones.Columns(
        [one.value for one in operations], [one.start for one in operations], [one.end for one in operations]
    )


__all__ = [
    "BACK",
    "EARLY",
    "GOT",
    "LOST",
    "PHANTOM",
    "STALE",
    "WRITTEN",
    "Explanation",
    "Judgement",
    "Operation",
    "Read",
    "Verdict",
    "Write",
    "judge",
    "judge_all",
    "judge_lines",
    "short",
]
