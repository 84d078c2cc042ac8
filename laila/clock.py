"""Time as an argument: code that waits takes a Clock, tests give it one that they move by hand."""

from __future__ import annotations

import time


class Clock:
    """Monotonic seconds for durations, wall seconds (Unix epoch) for people."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds that never go back; only differences mean something."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since the epoch, for logs and pages."""
        return time.time()


class ManualClock(Clock):
    """A clock that stands still until `advance` is called."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


SYSTEM = Clock()
