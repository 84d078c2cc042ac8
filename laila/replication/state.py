"""How the replicas of a store are, one line each: what a person asks first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..artifacts import TrustSet
from ..errors import MixedReplicas
from .calls import Crowd
from .members import Members
from .membership import decode
from .replica import Replica
from .tags import Found, Stand, Unsure
from .views import READ, WRITE, Member, View
from .walk import Walk

OK, BEHIND, REBUILDING, UNREACHABLE, FOREIGN = "ok", "behind", "rebuilding", "unreachable", "foreign"


@dataclass(frozen=True, slots=True)
class _Told:
    """What a replica says of itself."""

    rebuilding: bool
    quarantined: int
    number: int


def describe(
    crowd: Crowd,
    view: View,
    members: Members,
    label: Callable[[Member], str],
    trust: TrustSet,
    timeout: float,
) -> dict[str, Any]:
    """The store, whether a quorum is there, and of each replica: where, id, state, names, behind, suspect,
    quarantined, number (of the membership that it knows), error. JSON-ready. Compares digests; reads no content.
    """

    def call(id: str, replica: Replica) -> _Told:
        members.vet(view, id, replica)
        document = replica.membership()
        number = 0 if document is None else decode(document, trust).number
        return _Told(members.rebuilding(id), len(replica.quarantined()), number)

    ids = [member.id for member in view]
    answers = crowd.ask(ids, call, lambda answers: False, timeout)
    reasons = answers.reasons({})
    walk = Walk(crowd, answers.got, timeout=timeout)
    behind, suspect = dict.fromkeys(ids, 0), dict.fromkeys(ids, 0)
    for difference in walk:
        for id in _behind(difference.found):
            behind[id] += 1
        for id, found in difference.found.items():
            suspect[id] += isinstance(found, Unsure)
    rows = []
    for member in view:
        told, error = answers.got.get(member.id), reasons.get(member.id, "")
        if told is not None and member.id in walk.unreachable:
            told, error = None, str(walk.unreachable[member.id])
        row: dict[str, Any] = {"where": label(member), "id": member.id, "error": error}
        if told is None:
            mixed = isinstance(answers.failed.get(member.id), MixedReplicas)
            row |= {
                "state": FOREIGN if mixed else UNREACHABLE,
                "names": None,
                "behind": None,
                "suspect": None,
            }
            row |= {"quarantined": None, "number": None}
        else:
            late = behind[member.id] or suspect[member.id]
            state = REBUILDING if told.rebuilding else BEHIND if late else OK
            row |= {"state": state, "names": walk.counts.get(member.id, 0), "behind": behind[member.id]}
            row |= {"suspect": suspect[member.id], "quarantined": told.quarantined, "number": told.number}
        rows.append(row)
    counting = [row["id"] for row in rows if row["state"] in (OK, BEHIND)]
    return {
        "store": view.store,
        "number": view.number,
        "changing": bool(view.next),
        "fit": len(counting),
        "count": len(ids),
        "needed": max(view.needed(READ), view.needed(WRITE)),
        "quorum": view.enough(READ, counting) and view.enough(WRITE, counting),
        "replicas": rows,
    }


def _behind(found: dict[str, Found] | Any) -> list[str]:
    """Those that do not have the newest version of all that were asked."""
    newest = max((one.tag for one in found.values() if isinstance(one, Stand)), default=None)
    return [
        id
        for id, one in found.items()
        if newest is not None and (not isinstance(one, Stand) or one.tag < newest)
    ]
