"""Named services of a node: what peers may ask of it beside its memory.

A service is a function from one map of plain values (what msgpack carries) and buffers, which travel beside it
uncopied, to another. It is offered by name, runs in worker threads of its own, so that one that waits holds up no
pool, and answers to the same access rules as pools, under the name `service:NAME`, as a write.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .codec import Buffer
from .errors import BadValue, Closed, UnknownService
from .lanes import Lanes
from .wire.messages import Answer

if TYPE_CHECKING:
    from .serving import Asker

WORKERS = 16
"""Threads for questions that are being answered; more questions wait their turn."""

PATIENCE = 5.0
"""Seconds that closing waits for answers; one that hangs on a dead volume must not keep a node from stopping."""


Handler = Callable[["Asker", dict[str, Any], Sequence[Buffer]], Mapping[str, Any] | Answer]
"""Who asks, the map, and the buffers that came with it."""


class Services:
    """What one node offers."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._handlers: dict[str, Handler] = {}
        self._lock = threading.Lock()
        self._lanes: Lanes | None = None
        self._closed = False

    @property
    def names(self) -> tuple[str, ...]:
        """The services on offer, sorted."""
        return tuple(sorted(self._handlers))

    def offer(self, name: str, handler: Handler) -> None:
        """Answer peers who ask for `name`. What `handler` raises travels to whoever asked, by class.

        Raises: BadValue when the name is taken or no text.
        """
        if not isinstance(name, str) or not name:
            raise BadValue(f"a service is named by a text, not by {name!r}")
        with self._lock:
            if name in self._handlers:
                raise BadValue(f"service {name!r} is offered already; withdraw it first")
            self._handlers[name] = handler

    def withdraw(self, name: str) -> None:
        """Answer no more. Raises UnknownService."""
        with self._lock:
            if self._handlers.pop(name, None) is None:
                raise self._unknown(name)

    def find(self, name: str | None) -> Handler:
        """Raises UnknownService."""
        handler = self._handlers.get(name or "")
        if handler is None:
            raise self._unknown(name)
        return handler

    @property
    def lanes(self) -> Lanes:
        """The threads that answer; started by the first question."""
        with self._lock:
            if self._closed:
                raise Closed("this node is closing; it answers no more questions")
            if self._lanes is None:
                self._lanes = Lanes(WORKERS, f"{self._name}-services")
            return self._lanes

    def close(self) -> None:
        """Take no more questions, and wait for those that were taken, for `PATIENCE` seconds at most."""
        with self._lock:
            self._closed = True
        if self._lanes is not None:
            self._lanes.close(PATIENCE)

    def _unknown(self, name: str | None) -> UnknownService:
        offered = ", ".join(self.names) or "none"
        return UnknownService(f"this node offers no service {name!r}; it offers: {offered}")
