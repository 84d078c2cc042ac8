"""What a judge says about a history."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from laila.lab.checkers.operations import Op


class Verdict(enum.Enum):
    """`unknown` never passes: nothing could be decided."""

    OK = "ok"
    ILLEGAL = "illegal"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a history cannot be: the few operations that contradict each other, in words and in order of time."""

    kind: str
    """The same words for all of its sort: `a value older than an acknowledged one`."""
    text: str
    operations: tuple[Op, ...]
    offender: Op
    """The one that ought to have been otherwise; its end is where the report puts the mark."""

    def to_dict(self) -> dict[str, Any]:
        """For the report and for `result.json`."""
        rows = [{**one.to_record(), "offender": one is self.offender} for one in self.operations]
        return {"kind": self.kind, "text": self.text, "rows": rows}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one judge found of one name. `check` says what was judged: linearizable register, mutual exclusion, …"""

    check: str
    name: str
    verdict: Verdict
    operations: int
    """How many were judged."""
    why: Explanation | None = None
    """The smallest explanation of an illegal history."""
    faults: int = 0
    """How many contradictions were met."""
    reason: str = ""
    """Why nothing could be decided."""
    workload: str = ""
    """Whose operations were judged."""

    def __str__(self) -> str:
        said = self.reason if self.why is None else f"{self.why.kind}: {self.why.text}"
        return f"{self.check} {self.name}: {self.verdict.value}" + (f", {said}" if said else "")

    def to_dict(self) -> dict[str, Any]:
        return {
            "workload": self.workload,
            "check": self.check,
            "name": self.name,
            "verdict": self.verdict.value,
            "operations": self.operations,
            "faults": self.faults,
            "reason": self.reason,
            "why": None if self.why is None else self.why.to_dict(),
        }


def nothing(check: str) -> Judgement:
    """Of a history without an operation that this judge could judge."""
    return Judgement(check, "", Verdict.UNKNOWN, 0, reason="nothing of it was asked")


def worst(judgements: Iterable[Judgement]) -> Verdict:
    """Illegal before unknown before ok; of nothing at all: unknown."""
    found = {one.verdict for one in judgements}
    if Verdict.ILLEGAL in found:
        return Verdict.ILLEGAL
    return Verdict.OK if found == {Verdict.OK} else Verdict.UNKNOWN
