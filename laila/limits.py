"""Every limit of a node, by name. Crossing one is a clear error, and the node lives on."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import BadConfig

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """What one node allows. Times are seconds, sizes are bytes."""

    request_timeout: float = 60.0
    """A request without an answer, and without progress of its body, for so long fails."""
    connect_timeout: float = 10.0
    """From the first packet to the end of the hello."""
    ping_interval: float = 2.0
    """A silent link is asked for a sign of life after this."""
    dead_after: float = 6.0
    """A peer that leaves such a question unanswered for so long is lost."""
    reconnect_first: float = 0.1
    reconnect_most: float = 5.0
    linger: float = 60.0
    """How long a lost peer that dialed us stays listed, so that its proxy works again when it returns."""
    max_requests: int = 1024
    """Requests in flight on one link, each way."""
    max_body: int = 8 * GIB
    """Bytes of one request or answer."""
    body_budget: int = 16 * GIB
    """Bytes of all bodies that are being received by this node at once; the others wait for their turn."""
    max_batch: int = 1_000_000
    """Entries in one call."""
    max_unauthenticated: int = 128
    """Connections that have not proved the secret yet; the oldest gives way to the newest."""
    max_links: int = 4096
    outbox: int = 64 * MIB
    """Small frames waiting for a peer that does not read; above it the link is dropped."""
    spin: float = 100e-6
    """How long a waiting thread may poll before it blocks, while that has been paying off; 0 turns it off."""
    workers: int = 8
    """Threads for pools that wait on disks or networks."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadConfig(f"limit {field.name} must be a number, not {value!r}")
            if value < 0 or (value == 0 and field.name != "spin"):
                raise BadConfig(f"limit {field.name} must be above 0, not {value!r}")
        if self.dead_after <= self.ping_interval:
            raise BadConfig(
                f"limit dead_after ({self.dead_after} s) must be above ping_interval ({self.ping_interval} s)"
            )
