"""The bars as data, and how they are judged: by the median of the ratio within each repetition."""

from __future__ import annotations

import math
from collections.abc import Iterator
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


def _ahead(metrics: tuple[str, ...], *others: str) -> Iterator[Bar]:
    for metric in metrics:
        for other in others:
            yield Bar(metric, 1.0, other)


SEQUENTIAL = ("seq.get", "seq.put")
BULK = ("bulk.put", "bulk.get")

BARS: tuple[Bar, ...] = (
    *(Bar(metric, 0.6, "raw-tls") for metric in SEQUENTIAL),
    *_ahead(SEQUENTIAL, "redis", "rpyc", "zeromq", "pyro5", "grpc"),
    *(Bar(metric, 20, "laila-core") for metric in SEQUENTIAL),
    Bar("pipeline.get", 0.35, "raw-tls"),
    *_ahead(("pipeline.get",), "zeromq", "rpyc", "grpc", "pyro5"),
    Bar("pipeline.get", 1.0, "redis", aim=True),
    Bar("batch.get", 0.35, "raw-tls"),
    Bar("batch.get", 100, "laila-core"),
    *(Bar(metric, 0.85, "raw-tls") for metric in BULK),
    *_ahead(BULK, "redis", "grpc", "rpyc", "pyro5"),
    *(Bar(f"{metric}.{side}", 1.3, at_most=True) for metric in BULK for side in ("client", "server")),
    Bar("clients.get", 1.0, "raw-tls"),
    *_ahead(("clients.get",), "rpyc", "grpc", "pyro5"),
    Bar("idle.server", 45, at_most=True, subject="laila-node"),
    Bar("import.ratio", 4, at_most=True),
    Bar("import.numpy", 0, at_most=True),
)


def judge(results: Results) -> list[Verdict]:
    """Every bar of which the work and the contenders were asked for."""
    verdicts = []
    for bar in BARS:
        asked = bar.subject in results.contenders and bar.reference in (None, *results.contenders)
        if not asked or bar.metric.partition(".")[0] not in results.works:
            continue
        values = results.ratios(bar.subject, bar.metric, bar.reference)
        if values:
            verdicts.append(Verdict(bar, results.median(values), min(values), max(values)))
        else:
            verdicts.append(Verdict(bar, None))
    return verdicts
