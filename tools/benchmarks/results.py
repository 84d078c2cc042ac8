"""Numbers by contender, metric and repetition; medians, and ratios within a repetition."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from .works import Numbers


@dataclass(slots=True)
class Results:
    """What a run measured. A missing repetition is one that failed; `failures` says why."""

    works: tuple[str, ...]
    contenders: tuple[str, ...]
    values: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # what was left out, and why

    def add(self, contender: str, repetition: int, numbers: Numbers) -> None:
        """One repetition's numbers."""
        for metric, value in numbers.items():
            self.values.setdefault(contender, {}).setdefault(metric, {})[repetition] = value

    def all(self, contender: str, metric: str) -> dict[int, float]:
        """Every value of a metric, by repetition."""
        return self.values.get(contender, {}).get(metric, {})

    def ratios(self, contender: str, metric: str, reference: str | None) -> list[float]:
        """The values, each over the reference's of the same repetition if there is a reference."""
        values = self.all(contender, metric)
        if reference is None:
            return list(values.values())
        others = self.all(reference, metric)
        return [value / others[repetition] for repetition, value in values.items() if others.get(repetition)]

    @staticmethod
    def median(values: list[float]) -> float | None:
        """None when there is nothing."""
        return statistics.median(values) if values else None
