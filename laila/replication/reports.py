"""How far a repair or a scrub is, and what it did, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LISTED = 10_000
"""Repairs and failures that a report lists; beyond that they are only counted."""
COMPARE, REPAIR, SCRUB = "compare", "repair", "scrub"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a repair or a scrub is: `done` of `total` names, `bytes` so far, and the name that was dealt with last.

    `phase`: "compare", "repair" or "scrub".
    """

    done: int
    total: int
    bytes: int
    name: str
    phase: str


@dataclass(frozen=True, slots=True)
class Mended:
    """A replica has the newest version of a name now. `sequence` is 0 where only an unsure replica was settled."""

    name: str
    replica: str
    sequence: int
    was: str
    """"missing", "stale" or "unsure"."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A name that could not be repaired on a replica, and why. `replica` is empty when it was on none."""

    name: str
    replica: str
    reason: str


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did. Replicas are named by where they are."""

    looked: int
    """Names that were compared."""
    transferred: int
    """Copies that were put to replicas."""
    bytes: int
    repaired: tuple[Mended, ...]
    failed: tuple[Failure, ...]
    unreachable: Mapping[str, str]
    """Replicas that could not be asked, or not to the end, and why."""
    seconds: float
    rebuilt: tuple[str, ...] = ()
    """Replicas that lacked everything, or were new, and count again from now on."""
    cancelled: bool = False
    repairs: int = 0
    """All of them, also those that are not listed any more."""
    failures: int = 0
    quorum_failures: int = 0
    """Names for which no read quorum was there."""
    behind: Mapping[str, int] = field(default_factory=dict)
    """Names of which each replica that answered did not have the newest version, before."""
    left: Mapping[str, int] = field(default_factory=dict)
    """The same, afterwards."""

    @property
    def ok(self) -> bool:
        """Whether every replica has everything now, as far as it was to be repaired."""
        return not (self.failures or self.unreachable or self.cancelled)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "looked": self.looked,
            "transferred": self.transferred,
            "bytes": self.bytes,
            "repairs": self.repairs,
            "repaired": [
                {"name": one.name, "replica": one.replica, "version": one.sequence, "was": one.was}
                for one in self.repaired
            ],
            "failures": self.failures,
            "quorum_failures": self.quorum_failures,
            "failed": [
                {"name": one.name, "replica": one.replica, "reason": one.reason} for one in self.failed
            ],
            "unreachable": dict(self.unreachable),
            "rebuilt": list(self.rebuilt),
            "cancelled": self.cancelled,
            "behind": dict(self.behind),
            "left": dict(self.left),
            "seconds": round(self.seconds, 3),
        }
