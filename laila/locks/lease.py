"""Leases: how long a hold certainly stands by one's own clock, and the thread that renews what is held.

The server ends a lease `ttl` seconds after it *received* the last renewal. Who renews counts from before it *sent*
that renewal, and stops believing at SAFE of it: so the holder knows that a hold is lost before the server gives it to
others, whatever the wall clocks say, as long as both clocks run at about the same rate. The clock goes on while a
machine is suspended.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

SAFE = 0.9
"""The part of a lease that is believed in; the rest is for clocks that do not run at the same rate."""
BEATS = 3
"""Renewals in one lease: two in a row may fail."""
AGAIN = 0.2
"""Seconds until a first try to give back what is owed."""

if hasattr(time, "CLOCK_BOOTTIME"):

    def now() -> float:
        """Seconds that never go back and that pass during suspension as well."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    now = time.monotonic


class Term:
    """Until when a lease certainly stands. Thread-safe: one attribute is written at a time, and an end is final."""

    __slots__ = ("_broken", "_ends", "ttl")

    def __init__(self, sent: float, ttl: float) -> None:
        self.ttl = ttl
        self._ends = sent + ttl * SAFE
        self._broken = ""

    def renewed(self, sent: float) -> None:
        """The server renewed it, upon a request sent then."""
        self._ends = max(self._ends, sent + self.ttl * SAFE)

    def broken(self, why: str) -> None:
        """The server says that it ended; `why` is a clause for people."""
        self._broken = self._broken or why

    @property
    def left(self) -> float:
        """Seconds for which it certainly stands; 0 or less afterwards."""
        return 0.0 if self._broken else self._ends - now()

    @property
    def loss(self) -> str:
        """Why it does not stand any more, "" while it does."""
        if self._broken:
            return self._broken
        late = now() - self._ends
        if late < 0:
            return ""
        return f"its lease of {self.ttl:g} s was not renewed in time"


class Keeper:
    """One thread that calls `beat` while there is something to keep; `beat` returns the seconds until its next call.

    It starts with `wake`, ends by itself when `idle()` is true at a beat, and by `close`. `beat` must not raise.
    """

    def __init__(self, beat: Callable[[], float], idle: Callable[[], bool], first: float) -> None:
        self._beat = beat
        self._idle = idle
        self._first = first
        self._changed = threading.Condition()
        self._due = math.inf
        self._closed = False
        self._thread: threading.Thread | None = None

    def wake(self, within: float | None = None) -> None:
        """There is something to keep, now that `idle()` is false; the next beat is within that many seconds."""
        with self._changed:
            due = now() + (self._first if within is None else within)
            if self._closed:
                return
            if self._thread is None:
                self._due = due
                self._thread = threading.Thread(target=self._run, name="laila-lease", daemon=True)
                self._thread.start()
            elif within is not None and due < self._due:
                self._due = due
                self._changed.notify()

    def _run(self) -> None:
        while self._goes_on():
            pause = self._beat()
            with self._changed:
                self._due = min(self._due, now() + pause)

    def _goes_on(self) -> bool:
        """Wait for the next beat. False when there will be none."""
        with self._changed:
            while not self._closed and (rest := self._due - now()) > 0:
                self._changed.wait(rest)
            if self._closed or self._idle():
                self._thread = None
                return False
            self._due = math.inf
            return True

    def close(self, patience: float) -> None:
        """End the thread, which is waited for that many seconds at most. Nothing is kept afterwards."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience)
