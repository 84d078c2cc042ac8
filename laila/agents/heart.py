"""The thread that beats for an agent until it is stopped, or nobody has the agent any more."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from ..errors import ArtifactNotFound, Denied, LailaError


class Heart:
    """Calls the method `beat` every `interval` seconds, in a thread of its own, without keeping its object alive.

    `trouble`: the error of the last beat; None after one that went well. An agent that is no longer registered
    under this key ends the beating; anything else (a full or absent volume) is tried again at the next beat.
    """

    def __init__(self, beat: Callable[[], None], interval: float, name: str) -> None:
        self.interval = interval
        self.trouble: LailaError | None = None
        self._beat = weakref.WeakMethod(beat)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"laila-heart-{name}", daemon=True)
        self._thread.start()

    @property
    def beating(self) -> bool:
        return self._thread.is_alive() and not self._over.is_set()

    def stop(self, timeout: float) -> None:
        """No beat begins after this; waits for one that is under way, at most `timeout` seconds."""
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._over.wait(self.interval):
            beat = self._beat()
            if beat is None:
                return
            try:
                beat()
                self.trouble = None
            except LailaError as error:
                self.trouble = error
                if isinstance(error, Denied | ArtifactNotFound):
                    return
            del beat  # between beats nobody here keeps the agent alive
