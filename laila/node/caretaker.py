"""A caretaker opens the store to which a served replica belongs, and has a keeper bring its replicas to agree.

Which store that is, and who its other members are, says the membership document that the replica learned. As long as
no store has used the replica there is none, and the caretaker looks again now and then. It opens the replica a second
time for itself, so that what it closes is its own. Then it compares all replicas every few seconds, which costs one
exchange of digests where they agree, and says what it found.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from laila.errors import LailaError
from laila.node.meter import SHARE
from laila.node.replica_map import BEHIND, REBUILDING, UNREACHABLE, ReplicaView, completed

if TYPE_CHECKING:
    from laila.replication.replica import Replica
    from laila.replication.store import ReplicatedStore

log = logging.getLogger("laila.node.replicas")

EVERY = 1.0
"""Seconds between two looks at a replica that belongs to no store."""
COMPARED = 4.0
"""Seconds between two comparisons; one that takes long is made so seldom that it takes a twentieth of the time."""
PATIENCE = 5.0
"""Seconds after which a replica that does not answer is called unreachable."""
RENEWED = 10.0
"""Seconds between two looks at who signed what is here, while the cluster changes its secret; likewise."""
LONGEST = 30.0
"""Seconds at most between two tries to open a store whose other members do not answer."""


class Caretaker:
    """Cares for one served replica from `start` on; `open_store(id)` opens its store, of which it is member `id`.

    `renew(replica, number)` vouches anew for the signers of what is here, where the node accepts two secrets; it is
    told the number of the membership. Close it before the node's links.
    """

    def __init__(
        self,
        name: str,
        replica: Replica,
        open_store: Callable[[str], ReplicatedStore],
        renew: Callable[[Replica, int], int] | None = None,
    ) -> None:
        self._name = name
        self._replica = replica
        self._open_store = open_store
        self._renew = renew
        self._renew_at = 0.0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._store: ReplicatedStore | None = None
        self._trouble: str | None = None
        self._own = ""
        self._found: dict[str, Any] | None = None
        self._reached: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name=f"laila-caretaker-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def complete(self, view: ReplicaView) -> ReplicaView:
        """The view of the replica here, with what is known of the others. Waits for nobody."""
        store, found = self._store, self._found
        if store is None or found is None:
            return dataclasses.replace(view, error=view.error or self._trouble)
        here = {
            one["id"] for one in found["replicas"] if one["id"] == self._own or one["where"] == view.where
        }
        return completed(view, found, store.keeper.status(), here, dict(self._reached))

    def took(self, name: str) -> None:
        """The replica here took a version. Members that did not answer lately missed it: note that it is owed to them.

        The notes are in the node's state directory, so they are paid also after a restart, and when whoever saved is
        gone.
        """
        store, found = self._store, self._found
        if store is None or found is None:
            return
        for one in found["replicas"]:
            if one["state"] == UNREACHABLE and one["id"] != self._own:
                store.keeper.owe(one["id"], name)

    def close(self) -> None:
        """End within some seconds, whatever hangs. Idempotent."""
        with self._lock:
            self._over.set()
        if self._store is not None:
            self._store.close()  # which ends a comparison that is under way
        if self._thread.is_alive():
            self._thread.join(10.0)

    def _run(self) -> None:
        pause = EVERY
        while not self._over.is_set():
            try:
                if self._store is not None:
                    pause = self._compare(self._store)
                elif self._replica.membership() is not None:
                    self._open()
                    pause = 0.0
                self._trouble = None
            except Exception as error:  # the thread outlives whatever goes wrong
                if self._over.is_set():
                    return
                if self._trouble is None:
                    log.warning("cannot care for it", extra={"replica": self._name, "reason": str(error)})
                self._trouble, pause = str(error), min(2 * max(pause, EVERY), LONGEST)
            self._over.wait(pause)

    def _open(self) -> None:
        from laila.replication.opening import MembershipDiffers

        # It lists its own replica only, by another name than its peers do; the document names the others.
        warnings.simplefilter("ignore", MembershipDiffers)
        self._own = self._replica.stamp().replica
        store = self._open_store(self._own)
        store.keeper.wake()
        with self._lock:
            if not self._over.is_set():
                self._store = store
        if self._store is None:
            store.close()
            return
        members = [member.where for member in store.members]
        log.info(
            "caring for a store", extra={"replica": self._name, "store": store.view.store, "members": members}
        )

    def _compare(self, store: ReplicatedStore) -> float:
        """Ask all; the seconds until the next time."""
        started = time.monotonic()
        if self._renew is not None and started >= self._renew_at:
            try:
                if keys := self._renew(self._replica, store.view.number):
                    words = {"replica": self._name, "keys": keys}
                    log.info("vouched for signers under every secret", extra=words)
            except LailaError as error:  # the comparison is not to wait for it
                log.warning("could not vouch anew", extra={"replica": self._name, "reason": str(error)})
            self._renew_at = started + max(RENEWED, SHARE * (time.monotonic() - started))
        found = store.status(timeout=PATIENCE)
        if not found["quorum"]:
            store.keeper.note_quorum_lost()
        now = time.time()
        self._reached.update({one["id"]: now for one in found["replicas"] if one["behind"] is not None})
        self._found = found
        own = next((one for one in found["replicas"] if one["id"] == self._own), None)
        if own is not None and own["state"] in (BEHIND, REBUILDING):
            store.keeper.wake(self._own)
        return max(COMPARED, SHARE * (time.monotonic() - started))
