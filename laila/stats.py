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

    @property
    def count(self) -> int:
        return sum(self.buckets)


class Stats:
    """`requests[(direction, op, outcome)]`, `latency[op]` of what was served, `refused[reason]`, `errors[kind]`."""

    __slots__ = (
        "_failed",
        "_made",
        "bytes_in",
        "bytes_out",
        "errors",
        "latency",
        "links_lost",
        "links_opened",
        "refused",
    )

    def __init__(self) -> None:
        self._made: Counter[str] = Counter()
        self._failed: Counter[tuple[str, str]] = Counter()
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
        histogram.buckets[bisect_left(BOUNDS, seconds)] += 1
        histogram.total += seconds
        if error is not None:
            self._fail("in", op, error)

    def made(self, op: str, error: BaseException | None) -> None:
        """A request of ours was answered."""
        self._made[op] += 1
        if error is not None:
            self._fail("out", op, error)

    @property
    def requests(self) -> dict[tuple[str, str, str], int]:
        """How many, by direction ("in", "out"), operation and outcome ("ok", "error")."""
        counts = {("in", op): histogram.count for op, histogram in list(self.latency.items())}
        counts |= {("out", op): count for op, count in list(self._made.items())}
        known: dict[tuple[str, str, str], int] = {}
        for key, count in counts.items():
            failed = self._failed[key]
            known[(*key, "ok")] = count - failed
            if failed:
                known[(*key, "error")] = failed
        return known

    def _fail(self, direction: str, op: str, error: BaseException) -> None:
        self._failed[direction, op] += 1
        self.errors[type(error).__name__] += 1
