"""How far a repair or a scrub is, and what it did, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .views import READ, WRITE, Member, View

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
    number: int = 0
    """Of the membership under which it began."""
    complete: bool = False
    """All names were compared, to the end, with those that answered."""
    asked: frozenset[str] = frozenset()
    """Member ids of those that answered the whole comparison, and lost nothing until its end."""
    incomplete: frozenset[str] = frozenset()
    """Member ids of those that were being rebuilt when it began: what they do not have says nothing."""
    unknown: int = 0
    """Names of which nobody could tell the newest version."""

    @property
    def ok(self) -> bool:
        """Whether every replica has everything now, as far as it was to be repaired."""
        return not (self.failures or self.unreachable or self.cancelled)

    def caught_up(self, view: View) -> str:
        """Why it is not certain that every name that was acknowledged before, or under the joint `view`, is on a write
        quorum of its next members; empty when it is.

        Certain it is when all names were compared with so many of both groups that no write was acknowledged without
        one of them, the newest version of each name was found, and so many of the next members lack none of them.
        """
        if self.number != view.number:
            return f"the comparison was made under membership {self.number}, and {view.number} is asked for"
        if self.cancelled:
            return "it was given up"
        if not self.complete:
            return f"the comparison did not come to its end: {self._troubles(view) or 'too few replicas answered'}"
        for group, which in ((view.members, "present"), (view.next, "next")):
            telling = [one for one in group if one.id in self.asked and one.id not in self.incomplete]
            least = min(
                view.quorums.of(READ, len(group)), len(group) - view.quorums.of(WRITE, len(group)) + 1
            )
            if len(telling) < least:
                return (
                    f"{len(telling)} of the {len(group)} {which} members told all that they have, and {least} have to: "
                    f"{self._troubles(view) or 'the others do not count'}"
                )
        if self.unknown:
            return (
                f"of {self.unknown} names nobody could tell the newest version: "
                f"{self._troubles(view) or 'too few replicas answered'}"
            )
        fit = [one for one in view.next if self._has_all(one)]
        needed = view.quorums.of(WRITE, len(view.next))
        if len(fit) < needed:
            return (
                f"{len(fit)} of the {len(view.next)} next members have every name, and {needed} have to: "
                f"{self._troubles(view) or 'the others do not count'}"
            )
        return ""

    def _has_all(self, member: Member) -> bool:
        whole = member.id not in self.incomplete or member.where in self.rebuilt
        lacks = self.left.get(member.where, 0)
        return whole and member.id in self.asked and member.where not in self.unreachable and not lacks

    def _troubles(self, view: View) -> str:
        """What went wrong, in words: one reason of each replica."""
        reasons = {one.replica: f"{one.name!r}: {one.reason}" for one in reversed(self.failed)}
        reasons |= self.unreachable
        for member in view:
            lacks = self.left.get(member.where, 0)
            if member.where in reasons:
                continue
            if lacks:
                reasons[member.where] = f"it lacks {lacks} names"
            elif member.id in self.incomplete and member.where not in self.rebuilt:
                reasons[member.where] = "it is being rebuilt"
        return "; ".join(f"{where or 'a name'}: {reason}" for where, reason in sorted(reasons.items()))

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
            "complete": self.complete,
            "unknown": self.unknown,
            "behind": dict(self.behind),
            "left": dict(self.left),
            "seconds": round(self.seconds, 3),
        }
