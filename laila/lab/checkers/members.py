"""A set that everybody adds to: all that was acknowledged is there, on every node, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laila.lab.checkers.fault import Fault, in_order
from laila.lab.clocks import Moment

MISSING = "an acknowledged registration is missing"
UNKNOWN = "a registration that nobody made"
TWICE = "a registration that is listed twice"


@dataclass(frozen=True, slots=True)
class Addition:
    """Somebody added a member. `ended` is None when it was not acknowledged: it may be there or not."""

    client: str
    node: str
    member: str
    began: Moment
    ended: Moment | None

    def to_record(self, began: float) -> dict[str, Any]:
        """For the history; times are seconds since the run began."""
        ended = None if self.ended is None else self.ended.since(began)
        plain = {key: getattr(self, key) for key in ("client", "node", "member")}
        return {**plain, "began": self.began.since(began), "ended": ended}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Addition:
        ended = None if record["ended"] is None else Moment(*record["ended"])
        plain = {key: record[key] for key in ("client", "node", "member")}
        return cls(**plain, began=Moment(*record["began"]), ended=ended)


@dataclass(frozen=True, slots=True)
class Listing:
    """All members, as one node listed them."""

    client: str
    node: str
    members: tuple[str, ...]
    began: Moment
    ended: Moment

    def to_record(self, began: float) -> dict[str, Any]:
        """For the history; times are seconds since the run began."""
        plain = {"client": self.client, "node": self.node, "members": list(self.members)}
        return {**plain, "began": self.began.since(began), "ended": self.ended.since(began)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Listing:
        moments = {key: Moment(*record[key]) for key in ("began", "ended")}
        return cls(record["client"], record["node"], tuple(record["members"]), **moments)


def judge(additions: Sequence[Addition], listings: Sequence[Listing]) -> list[Fault]:
    """Everything that is wrong with the set, in the order of time."""
    made = {addition.member: addition for addition in additions}
    found = []
    for listing in listings:
        counts = Counter(listing.members)
        for addition in additions:
            done = addition.ended is not None and addition.ended.surely_before(listing.began)
            if done and addition.member not in counts:
                text = f"{addition.member} of {addition.client}, listed by {listing.client}"
                found.append(Fault(MISSING, text, listing.ended.latest, listing.node))
        for member, times in counts.items():
            if member not in made:
                found.append(
                    Fault(
                        UNKNOWN, f"{member}, listed by {listing.client}", listing.ended.latest, listing.node
                    )
                )
            elif times > 1:
                text = f"{member}, {times} times, by {listing.client}"
                found.append(Fault(TWICE, text, listing.ended.latest, listing.node))
    return in_order(found)
