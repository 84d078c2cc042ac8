"""SIGTERM and SIGINT ask a node to stop; the second one does not ask.

Light on purpose: it is in place before the daemon is imported, because as process 1 of a container a signal without a
handler is lost.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class Signals:
    """SIGTERM and SIGINT as an event; the second one exits at once, with the status of a killed process."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.asked.is_set():
            os._exit(128 + number)
        self.asked.set()
