"""Logs what happens between nodes: links that come up and go away, peers refused, dialing that fails.

Events come in the thread that carries all links, so they are only noted there, in a queue with a bound;
`turn`, called twice a second by the main thread, writes them. What can come by the thousand is counted:
refusals by reason, and a dialer that fails for the same reason again says nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from typing import Any

from laila.events import Events

log = logging.getLogger("laila.node.links")

MAX_NOTED = 1000
"""Events between two turns; of more the oldest are lost."""
_ABOUT = ("peer_name", "peer_id", "address", "direction")


class Watch:
    """Subscribes to a node's events. Call `turn` now and then."""

    def __init__(self, events: Events) -> None:
        self._noted: deque[tuple[float, str, dict[str, Any]]] = deque(maxlen=MAX_NOTED)
        self._lock = threading.Lock()
        self._refused: Counter[str] = Counter()
        self._failures: dict[str, str] = {}
        events.subscribe(self._note)

    def _note(self, kind: str, fields: dict[str, Any]) -> None:
        with self._lock:
            if kind == "refused":
                self._refused[fields["reason"]] += 1
                if self._refused[fields["reason"]] > 1:
                    return
            self._noted.append((time.time(), kind, fields))

    def turn(self) -> None:
        """Write what has happened since the last time."""
        with self._lock:
            noted, refused = list(self._noted), self._refused
            self._noted.clear()
            self._refused = Counter()
        for at, kind, fields in noted:
            if kind == "refused":
                fields = {**fields, "count": refused[fields["reason"]]}
            if (line := self._line(kind, fields)) is not None:
                level, event, extra = line
                _write(at, level, event, extra)

    def _line(self, kind: str, fields: dict[str, Any]) -> tuple[int, str, dict[str, Any]] | None:
        """Level, event and fields of a log line; None when this was said already."""
        if kind == "link_up":
            self._failures.pop(fields["address"], None)
            return logging.INFO, "link up", {name: fields[name] for name in _ABOUT}
        if kind == "link_lost":
            level = logging.INFO if fields.get("reason") == "goodbye" else logging.WARNING
            return level, "link lost", {name: fields[name] for name in (*_ABOUT, "error")}
        if kind == "refused":
            level = logging.DEBUG if fields["reason"] == "SelfPeer" else logging.WARNING
            return level, "refused", fields
        if kind != "dial_failed":
            return logging.ERROR, kind, fields
        if self._failures.get(fields["address"]) == fields["error"]:
            return None
        self._failures[fields["address"]] = fields["error"]
        if fields["kind"] == "SelfPeer":
            return logging.INFO, "that peer is this node", {"address": fields["address"]}
        return logging.WARNING, "cannot link yet", fields


def _write(at: float, level: int, event: str, extra: dict[str, Any]) -> None:
    if log.isEnabledFor(level):
        record = log.makeRecord(log.name, level, __file__, 0, event, (), None, extra=extra)
        record.created = at  # when it happened, not when it was written
        log.handle(record)
