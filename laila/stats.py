"""Counters of one node, cheap enough for the hot path; metrics and pages read them.

Plain integers under the interpreter's lock: a count may lag by one, never corrupts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

BOUNDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
"""Upper bounds of the latency buckets, seconds."""


class Histogram:
    """How long the requests of one operation took."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        return sum(self.buckets)


class Stats:
    """`requests[(direction, op, outcome)]`, `latency[op]` of what was served, `refused[reason]`, `errors[kind]`."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "errors",
        "latency",
        "links_lost",
        "links_opened",
        "refused",
        "requests",
    )

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.latency: dict[str, Histogram] = {}
        self.refused: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.links_opened = 0
        self.links_lost = 0
        self.bytes_in = 0
        """Of links that have ended; those of live links are in the links."""
        self.bytes_out = 0

    def served(self, op: str, seconds: float, error: BaseException | None) -> None:
        """A request of a peer was answered."""
        histogram = self.latency.get(op)
        if histogram is None:
            histogram = self.latency[op] = Histogram()
        histogram.observe(seconds)
        self._count("in", op, error)

    def made(self, op: str, error: BaseException | None) -> None:
        """A request of ours was answered."""
        self._count("out", op, error)

    def _count(self, direction: str, op: str, error: BaseException | None) -> None:
        self.requests[direction, op, "ok" if error is None else "error"] += 1
        if error is not None:
            self.errors[type(error).__name__] += 1
