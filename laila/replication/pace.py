"""A pace: so many bytes, or names, in a second, on average.

A token bucket that may go into debt: whoever takes more than there is takes it and waits afterwards, so one large copy
is not cut into pieces, and what follows it waits for its share. One pace may be shared by many threads.
"""

from __future__ import annotations

import threading

from ..clock import SYSTEM, Clock
from ..errors import BadConfig

BURST = 1.0
"""Seconds' worth that may be taken at once after a rest."""


class Pace:
    """`rate` units in a second; None is as fast as it goes. Raises BadConfig for a rate that is not above zero."""

    def __init__(self, rate: float | None = None, *, clock: Clock = SYSTEM) -> None:
        if rate is not None and not rate > 0:
            raise BadConfig(
                f"a rate is a number above zero, or None for as fast as it goes, not {rate!r}; "
                "to pause repairs, close what makes them"
            )
        self.rate = rate
        self._clock = clock
        self._mutex = threading.Lock()
        self._left = 0.0 if rate is None else rate * BURST
        self._at = clock.now()

    def delay(self, amount: float) -> float:
        """Take so much; the seconds to wait before the work that it is for."""
        if self.rate is None:
            return 0.0
        with self._mutex:
            now = self._clock.now()
            self._left = min(self.rate * BURST, self._left + (now - self._at) * self.rate)
            self._at = now
            debt = max(0.0, -self._left)
            self._left -= amount
        return debt / self.rate

    def take(self, amount: float, cancel: threading.Event) -> bool:
        """Take so much and wait as long as that needs; False at once when `cancel` is set."""
        seconds = self.delay(amount)
        return not (cancel.wait(seconds) if seconds > 0 else cancel.is_set())
