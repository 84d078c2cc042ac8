"""The replicas that a node serves, as its page, its status document and its metrics show them.

One view per served store: how the replica here is, and what the node's caretaker last knew of the others. Nothing here
asks another node: whoever cares for the replicas compares them when it is time, and tells what it found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

OK = "ok"
BEHIND = "behind"
REBUILDING = "rebuilding"
BLANK = "blank"
UNREACHABLE = "unreachable"
FOREIGN = "foreign"
STATES = (OK, BEHIND, REBUILDING, BLANK, UNREACHABLE, FOREIGN)
"""What a replica can be."""
COUNTING = (OK, BEHIND)
"""States of those that count in a quorum."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """One replica of a store, seen from this node."""

    id: str
    where: str
    here: bool
    """Whether it is the one that this node serves."""
    state: str
    error: str | None = None
    behind: int | None = None
    """Names of which it lacks the newest version; None when it does not answer."""
    owed: int = 0
    """Names that this node noted that it has missed."""
    compared: float | None = None
    """When it was last compared with the others, seconds of the epoch."""


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One store of which this node serves a replica. None is what is not known yet."""

    store: str
    where: str
    state: str
    error: str | None = None
    number: int | None = None
    """Of the membership; rises with each change."""
    changing: bool = False
    quorum: bool | None = None
    """Whether enough members count; None when nobody has looked yet."""
    names: int | None = None
    suspect: int | None = None
    quarantined: int | None = None
    puts: int = 0
    fetches: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    repairs: int = 0
    quorum_failures: int = 0
    members: tuple[MemberView, ...] = ()

    @property
    def lag(self) -> int | None:
        """Names with which the replica here is behind."""
        return next((member.behind for member in self.members if member.here), None)

    @property
    def compared(self) -> float | None:
        """When replicas were compared last, seconds of the epoch."""
        return max((member.compared for member in self.members if member.compared is not None), default=None)

    @property
    def owed(self) -> int:
        """Names that this node owes to the others."""
        return sum(member.owed for member in self.members if not member.here)

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self) | {
            "lag": self.lag,
            "owed": self.owed,
            "compared": self.compared,
        }


class Served(Protocol):
    """A replica that a node serves; says how it is, waiting for its own disk at most."""

    def view(self) -> ReplicaView: ...


def completed(
    view: ReplicaView,
    found: Mapping[str, Any],
    kept: Mapping[str, Any],
    here: Collection[str],
    reached: Mapping[str, float],
) -> ReplicaView:
    """A view with what a node knows of the store.

    `found`: what `ReplicatedStore.status()` said lately; `kept`: what `Keeper.status()` says; `here`: member ids of the
    replicas that this node serves; `reached`: when each one answered last, seconds of the epoch.
    """
    owed = {one["id"]: one["owed"] for one in kept["replicas"]}
    members = tuple(_member(one, view, owed, one["id"] in here, reached) for one in found["replicas"])
    return dataclasses.replace(
        view,
        # what is wrong with one member is said there
        error=view.error or (kept["trouble"] if all(one.state in COUNTING for one in members) else None),
        number=found["number"],
        changing=found["changing"],
        quorum=found["quorum"],
        repairs=kept["repairs"],
        quorum_failures=kept["quorum_failures"],
        members=members,
    )


def _member(
    one: Mapping[str, Any],
    view: ReplicaView,
    debts: Mapping[str, int | str],
    here: bool,
    reached: Mapping[str, float],
) -> MemberView:
    owed = debts.get(one["id"], 0)
    state, error = one["state"], one["error"] or None
    if here and view.state not in COUNTING:  # known at once
        state, error = view.state, view.error or error
    return MemberView(
        one["id"],
        one["where"],
        here,
        state,
        error,
        one["behind"],
        owed
        if isinstance(owed, int)
        else view.names or 1,  # "everything": what there is, as far as anybody knows
        reached.get(one["id"]),
    )
