"""Memory for bodies that are being received, shared by all links of a node: first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Budget:
    """`ask` runs `use` at once or when enough was given back; `use` says whether it took the memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, Callable[[], bool]]] = deque()

    def ask(self, size: int, use: Callable[[], bool]) -> None:
        """One that is larger than the whole budget gets it alone."""
        with self._lock:
            self._waiting.append((size, use))
        self._serve()

    def give(self, size: int) -> None:
        with self._lock:
            self.used -= size
        self._serve()

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    return
                size, use = self._waiting[0]
                if self.used and self.used + size > self.size:
                    return
                self._waiting.popleft()
                self.used += size
            if not use():
                with self._lock:
                    self.used -= size
