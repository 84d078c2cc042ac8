"""Who sees whom, when: asks every node's own list of peers again and again, from inside, and records each
change.

A directed link (a, b) is up when node a itself lists b as connected. The times are the controller's: a
change happened between two looks, and counts from the later one, so measured delays are never flattered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from laila.errors import DeadlineExceeded
from laila.lab.history import History
from laila.lab.remote import RemoteClient

EVERY = 0.1
"""Seconds between two looks, and so the precision of what is measured here."""

SAME_LINK = 0.25
"""Seconds by which a node's word for when a link began may differ from one look to the next."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One node's latest word about one peer. `seen` is the controller's monotonic time of the last change."""

    up: bool
    seen: float
    since: float = 0.0
    """The node's own word: seconds since the epoch at which this link's state began."""


class Watch:
    """Looks from inside of every node that it was given a client for."""

    def __init__(self, names: tuple[str, ...], history: History) -> None:
        self._names = names
        self._history = history
        self._clients: dict[str, RemoteClient] = {}
        self._sights: dict[tuple[str, str], Sight] = {}
        self._listed: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def follow(self, client: RemoteClient) -> None:
        """Look from this client's node from now on (instead of an earlier client of the same node)."""
        with self._lock:
            self._clients[client.node] = client
        thread = threading.Thread(target=self._look, args=(client,), name=f"watch {client.node}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def unfollow(self, node: str) -> None:
        """Stop looking from there; what it saw is forgotten."""
        with self._lock:
            self._clients.pop(node, None)
            self._listed.pop(node, None)
            for pair in [pair for pair in self._sights if pair[0] == node]:
                del self._sights[pair]

    def sight(self, node: str, peer: str) -> Sight | None:
        with self._lock:
            return self._sights.get((node, peer))

    def up(self, node: str, peer: str) -> bool:
        sight = self.sight(node, peer)
        return sight is not None and sight.up

    def listed(self, node: str) -> list[str]:
        """Names of the peers that this node counts as connected, sorted."""
        with self._lock:
            return list(self._listed.get(node, []))

    def matrix(self) -> dict[tuple[str, str], Sight]:
        with self._lock:
            return dict(self._sights)

    def wait(self, done: Callable[[], bool], timeout: float, missing: Callable[[], str]) -> float:
        """Wait until it is so; returns the seconds. DeadlineExceeded says what was still missing."""
        started = time.monotonic()
        while not done():
            if time.monotonic() - started > timeout:
                raise DeadlineExceeded(f"waited {timeout:g} s; still missing: {missing()}")
            time.sleep(0.02)
        return time.monotonic() - started

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _look(self, client: RemoteClient) -> None:
        while not self._stop.is_set() and self._clients.get(client.node) is client and not client.gone:
            outcome = client.call("peers", timeout=5)
            if outcome.ok:
                self._take(client, outcome.result["peers"])
            self._stop.wait(EVERY)

    def _take(self, client: RemoteClient, found: list[dict[str, Any]]) -> None:
        now, node = time.monotonic(), client.node
        links = {str(item.get("peer_name")): item for item in found if item.get("state") == "up"}
        with self._lock:
            if self._clients.get(node) is not client:
                return  # its node was killed while it answered
            self._listed[node] = sorted(links)
            changes = []
            for peer in {*links, *(p for n, p in self._sights if n == node)}:
                before, up = self._sights.get((node, peer)), peer in links
                since = float(links[peer].get("since") or 0.0) if up else 0.0
                renewed = before is not None and up and abs(before.since - since) > SAME_LINK
                if before is None or before.up != up or renewed:
                    self._sights[node, peer] = Sight(up, now, since)
                    changes.append((peer, before, up))
        for peer, before, up in changes:
            self._tell(node, peer, before, up, now)

    def _tell(self, node: str, peer: str, before: Sight | None, up: bool, now: float) -> None:
        if not up:
            self._history.event("lost", f"{node} sees that {peer} is gone", node=node, peer=peer, at=now)
        elif before is None:
            self._history.event("link", f"{node} sees {peer}", node=node, peer=peer, at=now)
        else:
            self._history.event("healed", f"{node} sees {peer} again", node=node, peer=peer, at=now)


def name_missing(watch: Watch, links: tuple[tuple[str, str], ...]) -> str:
    """The links that are not up, as people read them."""
    return ", ".join(f"{a}→{b}" for a, b in links if not watch.up(a, b)) or "nothing"
