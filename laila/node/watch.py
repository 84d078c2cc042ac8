"""Logs what happens between nodes: links that come up and go away, peers refused, dialing that fails.

Events come in the thread that carries all links, so they are only noted there, in a queue with a bound;
`turn`, called twice a second by the main thread, writes them. What can come by the thousand is counted:
refusals by reason, and a dialer that fails for the same reason again says nothing.
"""

from __future__ import annotations

import logging
import threading
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
        self._noted: deque[tuple[str, dict[str, Any]]] = deque(maxlen=MAX_NOTED)
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
            self._noted.append((kind, fields))

    def turn(self) -> None:
        """Write what has happened since the last time."""
        with self._lock:
            noted, refused = list(self._noted), self._refused
            self._noted.clear()
            self._refused = Counter()
        for kind, fields in noted:
            if kind == "link_up":
                self._failures.pop(fields["address"], None)
                log.info("link up", extra={name: fields[name] for name in _ABOUT})
            elif kind == "link_lost":
                log.warning("link lost", extra={name: fields[name] for name in (*_ABOUT, "error")})
            elif kind == "dial_failed":
                self._dial_failed(fields)
            elif kind == "refused":
                log.warning("refused", extra={**fields, "count": refused[fields["reason"]]})
            else:
                log.error(kind, extra=fields)

    def _dial_failed(self, fields: dict[str, Any]) -> None:
        if self._failures.get(fields["address"]) == fields["error"]:
            return
        self._failures[fields["address"]] = fields["error"]
        if fields["kind"] == "SelfPeer":
            log.info("that peer is this node", extra={"address": fields["address"]})
        else:
            log.warning("cannot link yet", extra=fields)
