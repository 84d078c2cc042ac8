"""The replicas of the present membership, as objects that can be asked, each of which is who it says it is.

A replica is asked for its stamp when it is asked anything for the first time, and again every second: a disk may have
been exchanged, or another store's mounted in its place. A blank one is a member that lost everything, or was away when
the store was made: it is given its identity (opening.py), and takes versions, but what it says may count only after it
was rebuilt. One that was away while the membership changed is told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from ..artifacts import TrustSet
from ..errors import MixedReplicas
from .calls import Crowd
from .locations import close_quietly
from .membership import Document, Membership
from .opening import enrol, newest, share_vouchers
from .replica import Replica, Stamp
from .views import View

VETTED = 1.0
"""Seconds for which a stamp that was read is believed."""


class Members:
    """Keeps `crowd` in step with the membership. `open(where)` makes a replica; safe under threads."""

    def __init__(
        self,
        crowd: Crowd,
        membership: Membership,
        open: Callable[[str], Replica],
        trust: TrustSet,
        timeout: float,
    ) -> None:
        self._crowd = crowd
        self._membership = membership
        self._open = open
        self._trust = trust
        self._timeout = timeout
        self._taught: dict[str, int] = {}
        self._lock = threading.Lock()
        self._vetted: dict[str, tuple[float, bool]] = {}
        self._shared: dict[str, tuple[str, int]] = {}
        """How many vouchers were known when a replica of this stamp was told of them."""
        self.on_rebuilding: Callable[[str], None] = lambda id: None
        """Told when a member turns out to have lost everything."""

    def follow(self, known: Mapping[str, Replica] | None = None) -> None:
        """Open new members, or take those already open; close the ones that are none any more."""
        with self._lock:
            view = self._membership.view
            present = self._crowd.replicas
            wanted = {member.id: member.where for member in view}
            left = [self._crowd.dismiss(id) for id in present if id not in wanted]
            for id, where in wanted.items():
                if id not in present:
                    self._crowd.admit(id, (known or {}).get(id) or self._open(where))
            for id in [id for id in self._vetted if id not in wanted]:
                del self._vetted[id]
        close_quietly([replica for replica in left if replica is not None])

    def vet(self, view: View, id: str, replica: Replica) -> None:
        """Make sure that it is this member. Raises MixedReplicas, and what asking it raises."""
        now = time.monotonic()
        known = self._vetted.get(id)
        if known is not None and now - known[0] < VETTED:
            return
        stamp = replica.stamp()
        if stamp.store and (stamp.store, stamp.replica) != (view.store, id):
            raise MixedReplicas(_mixed(replica.where, view, id, stamp))
        document = self._membership.document
        replica.vouchers()  # which are learned
        if (stamp.store, len(self._trust.learned)) != self._shared.get(id):
            share_vouchers(replica, self._trust)
            self._shared[id] = (stamp.store, len(self._trust.learned))
        if not stamp.store:
            stamp = enrol(replica, id, document, self._confirm)
        elif self._taught.get(id, 0) < document.view.number:
            replica.learn(document.data)
            self._taught[id] = document.view.number
        self._vetted[id] = (now, stamp.rebuilding)
        if stamp.rebuilding:
            self.on_rebuilding(id)

    def _confirm(self) -> Document:
        """The newest membership, by a majority of its members."""
        document = newest(
            self._crowd.replicas, self._open, self._membership.document, self._trust, self._timeout
        )
        if document.view.number > self._membership.view.number:
            self._membership.take(document)
            self.follow()
        return document

    def rebuilding(self, id: str) -> bool:
        """Whether it said at the last vetting that it lacks what it had."""
        known = self._vetted.get(id)
        return known is not None and known[1]

    def vet_again(self) -> None:
        """Believe no stamp that was read before."""
        self._vetted.clear()

    def close(self) -> None:
        """Close all replicas, after the crowd."""
        close_quietly(list(self._crowd.replicas.values()))


def _mixed(where: str, view: View, id: str, stamp: Stamp) -> str:
    if stamp.store != view.store:
        return (
            f"{where} belongs to another store ({stamp.store[:8]}…, this one is {view.store[:8]}…): somebody mixed up "
            "disks or addresses; nothing was read from it or written to it. Mount the right one there"
        )
    return (
        f"{where} is replica {stamp.replica[:8]}… of this store, where replica {id[:8]}… should be: somebody swapped "
        "disks or addresses. Put them back, or replace_replica() the one that is gone"
    )
