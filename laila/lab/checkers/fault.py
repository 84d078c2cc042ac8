"""What a judge found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that must never be. `kind` is the sentence's beginning, the same for all of its sort."""

    kind: str
    text: str
    at: float
    """When, on the controller's monotonic clock: as early as it can be said."""
    node: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: fault.at)


def lines(faults: Sequence[Fault], shown: int = 5) -> list[str]:
    """Evidence: for each kind how often, and the first few of it."""
    counts = Counter(fault.kind for fault in faults)
    found = []
    for kind, count in counts.most_common():
        cases = [fault for fault in in_order(faults) if fault.kind == kind]
        found.append(f"{count} times {kind}" if count > 1 else f"once {kind}")
        found += [f"  {fault.text}" for fault in cases[:shown]]
        found += [f"  and {count - shown} more"] if count > shown else []
    return found
