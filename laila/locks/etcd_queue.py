"""Who holds and who waits, in order of revision: the readers-and-writer recipe of etcd, as transactions.

    {base}queue/x{id}, {base}queue/r{id}    who asks exclusively, or shared: a key on the lease of its service
    {base}last                              the record of the last exclusive holder; for good

A writer's turn has come when no older key is in the queue, a reader's when no older writer's is: once that is so it
stays so, since revisions only grow. A writer then writes `last`, in a transaction that also sees its own key in the
queue; the revision of that write is its fencing token. Readers carry the revision of `last`.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from .base import Holder
from .etcd_gateway import Gateway, plain64, text64
from .lease import Term


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A lease at the server, and until when it certainly stands."""

    lease: int
    term: Term


class Queue:
    """The queue of one name; `base` is what its keys begin with."""

    def __init__(self, base: str) -> None:
        self.last = f"{base}last"
        self.first = f"{base}queue/"
        self.all = {"key": text64(self.first), "range_end": text64(f"{base}queue0")}
        self.writers = {"key": text64(f"{base}queue/x"), "range_end": text64(f"{base}queue/y")}

    def place(self, session: Session, shared: bool, node: str, purpose: str) -> Place:
        """A place in it that is not taken yet."""
        return Place(self, session, shared, node, purpose)

    def look(self, gateway: Gateway, timeout: float) -> tuple[Holder | None, Holder | None]:
        """Who holds it exclusively, and one of those who share it."""
        oldest = {**self.all, "sort_target": "CREATE", "sort_order": "ASCEND", "limit": 1}
        answer = gateway.transact(timeout, [], [{"request_range": oldest}, _range(self.last)])
        for first in _keys(answer, 0):
            key = plain64(first["key"])
            if key.removeprefix(self.first).startswith("r"):
                return None, _holder(json.loads(plain64(first["value"])), 0)
            for last in _keys(answer, 1):
                record = json.loads(plain64(last["value"]))
                if record[0] == key:  # else its turn has come, and it has not taken it yet
                    return _holder(record, int(last["mod_revision"])), None
        return None, None


class Place:
    """One key in a queue: it asks, waits, and holds as long as it is there. For one thread, until it holds."""

    def __init__(self, queue: Queue, session: Session, shared: bool, node: str, purpose: str) -> None:
        self.queue = queue
        self.session = session
        self.shared = shared
        self.node = node
        self.purpose = purpose
        self.since = time.time()
        self.key = f"{queue.first}{'r' if shared else 'x'}{secrets.token_hex(12)}"
        self.before = ""
        """The youngest key in the way, when we last asked."""
        self._created = 0
        self._revision = 0

    @property
    def taken(self) -> bool:
        """Whether the key was there when we last saw it."""
        return self._created > 0

    def first(self, gateway: Gateway, timeout: float, queue: bool) -> int | None:
        """The token, if nobody is in the way; else, with `queue`, the place is taken. One round trip."""
        rivals = self.queue.writers if self.shared else self.queue.all
        # Without `queue` too: the request may have run before, and its answer may have been lost.
        look = [_range(self.key)]
        answer = gateway.transact(
            timeout,
            [{**rivals, "target": "VERSION", "result": "EQUAL", "version": 0}],
            [self._put(), _range(self.queue.last) if self.shared else self._seal()],
            [self._put(), *look] if queue else look,
        )
        if answer.get("succeeded"):
            self._created = int(answer["header"]["revision"])
            return self._token(answer)
        found = _keys(answer, len(answer["responses"]) - 1)
        self._created = int(found[0]["create_revision"]) if found else 0
        return None

    def again(self, gateway: Gateway, timeout: float) -> int | None:
        """The token, if the turn has come; else it is known who is before. The place may turn out to be lost."""
        rivals = self.queue.writers if self.shared else self.queue.all
        youngest = {"sort_target": "CREATE", "sort_order": "DESCEND", "limit": 1, "keys_only": True}
        look: list[Any] = [
            {"request_range": {**rivals, **youngest, "max_create_revision": self._created - 1}},
            _range(self.queue.last),
            _range(self.key, keys_only=True),
        ]
        self.since = time.time()
        compare = [
            {
                "key": text64(self.key),
                "target": "CREATE",
                "result": "EQUAL",
                "create_revision": self._created,
            },
            {**rivals, "target": "CREATE", "result": "GREATER", "create_revision": self._created - 1},
        ]
        if self.shared:  # reads only: nothing has to be done in the same moment
            answer = gateway.transact(timeout, [], look)
        else:
            answer = gateway.transact(timeout, compare, [self._seal()], look)
            if answer.get("succeeded"):
                return self._token(answer)
        before, _, own = (_keys(answer, place) for place in range(3))
        if not own:
            self._created = 0
            return None
        if self.shared and not before:
            return self._token(answer)
        self.before = plain64(before[0]["key"]) if before else ""
        self._revision = int(answer["header"]["revision"])
        return None

    def wait(self, gateway: Gateway, timeout: float, seconds: float) -> None:
        """Until who is before has gone, or for that long."""
        if self.before and seconds > 0:
            gateway.wait(timeout, self.before, self._revision + 1, seconds)

    def stands(self, gateway: Gateway, timeout: float) -> bool:
        """Whether the key is there."""
        return bool(_keys(gateway.transact(timeout, [], [_range(self.key, keys_only=True)]), 0))

    def _put(self) -> dict[str, Any]:
        return {"request_put": {**self._record(self.key), "lease": self.session.lease}}

    def _seal(self) -> dict[str, Any]:
        return {"request_put": self._record(self.queue.last)}

    def _record(self, key: str) -> dict[str, str]:
        own = Holder.here(self.node, 0, self.since, self.purpose)
        record = [self.key, own.node, own.host, own.pid, own.since, own.purpose]
        return {"key": text64(key), "value": text64(json.dumps(record))}

    def _token(self, answer: dict[str, Any]) -> int:
        if not self.shared:
            return int(answer["header"]["revision"])
        last = _keys(answer, 1)
        return int(last[0]["mod_revision"]) if last else 0


def _range(key: str, *, keys_only: bool = False) -> dict[str, Any]:
    return {"request_range": {"key": text64(key), "keys_only": keys_only}}


def _keys(answer: dict[str, Any], place: int) -> list[dict[str, str]]:
    """What the range at that place of a transaction found."""
    found: list[dict[str, str]] = answer["responses"][place]["response_range"].get("kvs", [])
    return found


def _holder(record: list[Any], token: int) -> Holder:
    _, node, host, pid, since, purpose = record
    return Holder(node, host, pid, since, purpose, token)
