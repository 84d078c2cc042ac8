"""What a bar is, and how it is judged: by the median of the ratio within each repetition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .results import Results


@dataclass(frozen=True, slots=True)
class Bar:
    """`subject`'s `metric`, over `reference`'s when there is one, must be at least (or at most) `bound`."""

    metric: str
    bound: float
    reference: str | None = None
    at_most: bool = False
    subject: str = "laila"
    aim: bool = False  # wished for, not required


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judged bar: the median and range of what was measured, None when it was not."""

    bar: Bar
    value: float | None
    low: float = math.nan
    high: float = math.nan

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.bar.bound if self.bar.at_most else self.value >= self.bar.bound


def ahead(metrics: tuple[str, ...], *others: str) -> Iterator[Bar]:
    """Bars that ask to be at least as fast as each of the others."""
    for metric in metrics:
        for other in others:
            yield Bar(metric, 1.0, other)


def judge(results: Results, bars: Iterable[Bar]) -> list[Verdict]:
    """Every one of `bars` of which the work and the contenders were asked for."""
    verdicts = []
    for bar in bars:
        asked = bar.subject in results.contenders and bar.reference in (None, *results.contenders)
        if not asked or bar.metric.partition(".")[0] not in results.works:
            continue
        values = results.ratios(bar.subject, bar.metric, bar.reference)
        if values:
            verdicts.append(Verdict(bar, results.median(values), min(values), max(values)))
        else:
            verdicts.append(Verdict(bar, None))
    return verdicts
