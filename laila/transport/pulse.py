"""Whether the other side of a link still lives: asked when it is silent, decided by whether it answers.

Ticks are counted as well as seconds: a process that was stopped for a while must read what came meanwhile before it
takes everybody else for dead.
"""

from __future__ import annotations

from enum import Enum

_LEAST_TICKS = 4


class Finding(Enum):
    FINE = "fine"
    ASK = "ask"
    DEAD = "dead"


class Pulse:
    """Times in seconds: silent for `ask_after` is asked, silent for `dead_after` in all is dead."""

    __slots__ = ("_ask_after", "_asked_at", "_dead_after", "_ticks")

    def __init__(self, ask_after: float, dead_after: float) -> None:
        self._ask_after = ask_after
        self._dead_after = dead_after
        self._asked_at: float | None = None
        self._ticks = 0

    def tick(self, now: float, last_contact: float) -> Finding:
        """Look once; several times per `ask_after`."""
        if now - last_contact < self._ask_after:
            self._asked_at = None
            return Finding.FINE
        if self._asked_at is None or last_contact > self._asked_at:
            self._asked_at, self._ticks = now, 0
            return Finding.ASK
        self._ticks += 1
        waited = now - self._asked_at >= self._dead_after - self._ask_after
        return Finding.DEAD if waited and self._ticks >= _LEAST_TICKS else Finding.FINE
