"""Accepting a loss: what is left of a name becomes what there is, because somebody says so.

When so many replicas lost what they had of a name that no read quorum is left to tell what the newest version was,
every load and save of it raises QuorumLost, for ever: nothing here guesses. A person who knows that no better copy will
come back, or who has put files back by hand, may take the newest that is left.
"""

from __future__ import annotations

from ..errors import LailaError, QuorumLost
from .calls import Crowd
from .replica import Replica
from .tags import Found, Stand, Tag, Unsure
from .views import View


def accept(crowd: Crowd, view: View, name: str, timeout: float) -> Stand | None:
    """Let the newest version that any replica still has count on all that answer; that version, None for nothing.

    Raises QuorumLost when a majority does not answer at all: it may have what is missing here.
    """
    ids = [member.id for member in view]

    def look(id: str, replica: Replica) -> Found:
        return replica.look([name], view.number)[0]

    found = crowd.ask(ids, look, lambda answers: False, timeout)
    if len(found.got) * 2 <= len(ids):
        where = {member.id: member.where for member in view}
        reasons = found.reasons(where)
        raise QuorumLost(
            f"{len(found.got)} of {len(ids)} replicas answer; accept what is left of {name!r} only when more do: the "
            "others may have it",
            needed=len(ids) // 2 + 1,
            reasons=reasons,
        )
    marks = {id: one.mark for id, one in found.got.items() if isinstance(one, Unsure)}
    best = _newest(found.got)
    crowd.ask(
        marks, lambda id, replica: replica.settle(name, best, marks[id]), lambda answers: False, timeout
    )
    again = crowd.ask(list(found.got), look, lambda answers: False, timeout)
    best = _newest(again.got)
    if best is None:
        return None
    holder = next(id for id, one in again.got.items() if isinstance(one, Stand) and one.tag == best)
    copy = crowd.replicas[holder].fetch(name, view.number)
    if copy is None:
        raise QuorumLost(f"version {best} of {name!r} went away while it was accepted; try again")

    def give(id: str, replica: Replica) -> None:
        replica.put(copy, view.number)
        if id in marks:
            replica.settle(name, best, marks[id])

    with copy:
        given = crowd.ask(list(again.got), give, lambda answers: False, timeout)
        for error in given.failed.values():
            if not isinstance(error, LailaError):
                raise error
        return copy.stand


def _newest(found: dict[str, Found]) -> Tag | None:
    return max((one.tag for one in found.values() if isinstance(one, Stand)), default=None)
