"""What a node says about itself: its status as a document, whether it is ready and why not, its pages.

The daemon fills `NodeState` in as it comes up; the status port reads it from its own threads at any time,
so every field is replaced as a whole and never changed in place. Nothing here waits for a peer: a node is
ready when *it* is usable.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laila.node.http import Response, Route
from laila.node.meter import PoolMeter, Reading, complaints
from laila.node.metrics import CONTENT_TYPE
from laila.node.room import lacking

if TYPE_CHECKING:
    from laila.dialer import Dialer
    from laila.node.discovery import Discovery
    from laila.node.metrics import Metrics
    from laila.node.replica_map import ReplicaView, Served
    from laila.policy import DefaultPolicy

log = logging.getLogger("laila.node")

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:"
}


@dataclass(slots=True)
class NodeState:
    """Where a node is in its life. `phase` is "starting", "ready" or "draining"."""

    name: str
    version: str
    phase: str = "starting"
    started: float = field(default_factory=time.time)
    listen: str = ""
    advertise: str | None = None
    status: str = ""
    policy: DefaultPolicy | None = None
    discovery: Discovery[Dialer] | None = None
    meter: PoolMeter = field(default_factory=PoolMeter)
    replicas: tuple[Served, ...] = ()
    await_names: bool = False
    """Whether this node is ready only when every name of its peers was found once."""
    directories: tuple[Path, ...] = ()
    """Where this node keeps what it is given."""
    _told: tuple[str, ...] = ()

    def reasons(self) -> list[str]:
        """Why this node is not ready; empty when it is. May wait for the disks of its pools."""
        if self.policy is None or self.phase != "ready":
            return [f"the node is {self.phase}"]
        found = [*complaints(self.policy.memory.pools), *lacking(self.directories)]
        if self.discovery is not None:
            found += self.discovery.refusals()
            found += self.discovery.lacking() if self.await_names else []
        return self._noted(found)

    def _noted(self, reasons: list[str]) -> list[str]:
        """The same; what is new goes into the log, once."""
        before, self._told = self._told, tuple(reasons)
        if reasons and self._told != before:
            log.warning("not ready", extra={"reasons": reasons})
        elif before and not reasons:
            log.info("ready again")
        return reasons

    def pools(self) -> list[Reading]:
        """Every pool as it is now. May wait for disks."""
        return [] if self.policy is None else self.meter.read(self.policy.memory.pools)

    def replica_views(self) -> list[ReplicaView]:
        """Every served replica as it is now. May wait for disks."""
        return [served.view() for served in self.replicas]

    def document(self) -> dict[str, Any]:
        """The whole status, as plain JSON values. May wait for the disks of the pools."""
        policy = self.policy
        pools, reasons = self.pools(), self.reasons()
        return {
            "name": self.name,
            "id": None if policy is None else policy.global_id,
            "version": self.version,
            "state": self.phase,
            "ready": not reasons,
            "reasons": reasons,
            "now": time.time(),
            "started": self.started,
            "listen": self.listen,
            "advertise": self.advertise,
            "status": self.status,
            "pools": [dataclasses.asdict(pool) for pool in pools],
            "replicas": [view.document() for view in self.replica_views()],
            "peers": [] if policy is None else [link.as_dict() for link in policy.communication.links()],
            "dialers": [] if self.discovery is None else self.discovery.view(),
        }


def routes(state: NodeState, metrics: Metrics) -> dict[str, Route]:
    """The pages of the status port."""
    page = Path(__file__).with_name("page.html").read_bytes()
    return {
        "/": Route(lambda: Response(page, "text/html; charset=utf-8", headers=_PAGE_HEADERS)),
        "/healthz": Route(lambda: Response(b"ok\n")),
        "/readyz": Route(lambda: _readyz(state), slow=True),
        "/status.json": Route(lambda: _json(state.document()), slow=True),
        "/metrics": Route(lambda: Response(metrics.exposition(), CONTENT_TYPE), slow=True),
    }


def _readyz(state: NodeState) -> Response:
    reasons = state.reasons()
    return _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(value).encode() + b"\n", "application/json", status)
