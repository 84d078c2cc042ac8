"""Locks in etcd, by etcd3gw over its HTTP gateway: leases that one thread renews, and queues in order of revision.

Strategy: who asks puts a key into the queue of the name (etcd_queue.py); the key hangs on the lease of this service. A
hold is lost when that lease is over by our own clock, which is before the server ends it (lease.py), or when its key is
gone. Who waits watches the key that is in its way.

Rules
- A lease that our own clock says is over is never used again, though the server may have it still.
- What could not be deleted, or may have been put without our knowing, is owed: the keeper's thread deletes it, or the
  end of the lease does.

What it does not promise: more than etcd's majority keeps. A cluster that was restored from an older snapshot goes on at
an older revision, and tokens with it (etcd's `--bump-revision` is there for that).
"""

from __future__ import annotations

import contextlib
import math
import threading

from laila.errors import LockUnavailable

from .base import Capabilities, Hold, Holder, Lock, LockService, Wait
from .etcd_gateway import Address, Gateway
from .etcd_queue import Place, Queue, Session
from .lease import AGAIN, BEATS, Keeper, Term, now
from .server import Settings, client

SLICE = 1.0
"""Seconds of one watch: so soon a waiter sees that its caller went away or the service was closed."""
PAUSE = 0.05
"""Seconds before the same key is watched again: a watch may end at once, where a server or a proxy cuts it."""


class EtcdService(LockService):
    """Locks at `etcd://[user:password@]host[:port][,host...]`, or `etcds://` (TLS, files by `?ca=`, `cert=`, `key=`).

    Options, also in the address as `?ttl=5`: `ttl` seconds of a lease (whole ones; etcd has a minimum of its own),
    `timeout` of one request, `prefix` of the keys. etcd 3.4 or later. Raises BadConfig; connects when first used.
    """

    kind = "etcd"
    capabilities = Capabilities(shared=True, leased=True, survives_holder_pause=False)

    def __init__(
        self,
        url: str,
        *,
        node: str = "",
        ttl: float | None = None,
        timeout: float | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(node)
        client("etcd", "etcd3gw", "etcd")
        self.settings, rest = Settings.of(url, ttl, timeout, prefix)
        self._address = Address.of(rest)
        self.server = self._address.server()
        self._open()

    def _open(self) -> None:
        self.gateway = Gateway(self._address)
        self._mutex = threading.Condition()
        self._opening = threading.Lock()
        self._session: Session | None = None
        self._in_use = 0
        self._owed: list[str] = []
        self._ended: dict[int, float] = {}
        self._keeper = Keeper(self._beat, self._idle, self.settings.ttl / BEATS)

    def _make(self, name: str, timeout: float | None) -> EtcdLock:
        return EtcdLock(self, name, timeout)

    def enter(self) -> None:
        """Somebody holds or waits: the lease is renewed from now on."""
        with self._mutex:
            self._in_use += 1
        self._keeper.wake()

    def leave(self) -> None:
        """The end of one `enter`."""
        with self._mutex:
            self._in_use -= 1
            self._mutex.notify_all()

    def _idle(self) -> bool:
        with self._mutex:
            return not self._in_use and not self._owed and not self._ended

    def session(self) -> Session:
        """A lease that will last for a while: the present one, or a new one."""
        with self._opening:
            session = self._session
            if session is not None and session.term.left < session.term.ttl / 2:
                self._renew(session, self.settings.timeout)
            if session is None or session.term.left <= 0:
                sent = now()
                lease, ttl = self.gateway.grant(self.settings.timeout, math.ceil(self.settings.ttl))
                self._session = session = Session(lease, Term(sent, ttl))
            return session

    def _renew(self, session: Session, timeout: float) -> None:
        if session.term.left > 0:
            sent = now()
            if self.gateway.renew(timeout, session.lease):
                session.term.renewed(sent)
                return
        self._give_up(session)

    def _give_up(self, session: Session) -> None:
        """All that hangs on it is lost, and must not come back to life."""
        session.term.broken("its lease was not renewed in time, or the server ended it")
        with self._mutex:
            if self._session is session:
                self._session = None
                self._owed.clear()  # these hang on that lease
            self._ended[session.lease] = now() + session.term.ttl

    def _beat(self) -> float:
        """Renew the lease and pay what is owed; the seconds until this should be done again."""
        session = self._session
        ttl = session.term.ttl if session is not None else self.settings.ttl
        timeout = min(self.settings.timeout, ttl / BEATS)
        try:
            if session is not None:
                self._renew(session, timeout)
            self._pay(timeout)
        except LockUnavailable:
            return min(ttl / (BEATS * 4), self.settings.timeout)
        return ttl / BEATS

    def _pay(self, timeout: float) -> None:
        with self._mutex:
            owed, ended = list(self._owed), dict(self._ended)
        for key in owed:
            self.gateway.delete(timeout, key)
            with self._mutex:
                if key in self._owed:
                    self._owed.remove(key)
        for lease, until in ended.items():
            if now() < until:
                self.gateway.revoke(timeout, lease)
            with self._mutex:
                self._ended.pop(lease, None)

    def owe(self, key: str) -> None:
        """Delete it later; the end of the lease does it in any case."""
        with self._mutex:
            self._owed.append(key)
        self._keeper.wake(AGAIN)

    def drop(self, key: str) -> None:
        """Delete a key now, or else later. Does not raise."""
        if self.closed and self._owed:  # it did not answer a moment ago; closing ends the lease
            return
        try:
            self.gateway.delete(self.settings.timeout, key)
        except LockUnavailable:
            self.owe(key)

    def _shut(self) -> None:
        patience = self.settings.timeout + SLICE
        with self._mutex:  # those who wait see within a slice that it was closed, and leave their queues
            self._mutex.wait_for(lambda: self._in_use == 0, patience)
        self._keeper.close(patience)
        if self._session is not None and self._session.term.left > 0:
            with contextlib.suppress(LockUnavailable):  # then it ends by itself
                self.gateway.revoke(min(self.settings.timeout, 1.0), self._session.lease)
        self.gateway.close()

    def _after_fork(self) -> None:
        self._open()

    def __repr__(self) -> str:
        return f"<EtcdService {self.server.where}{' closed' if self.closed else ''}>"


class EtcdLock(Lock):
    """One name in etcd. Waiting is in order of arrival, readers together; who waits dies with its lease."""

    service: EtcdService

    def __init__(self, service: EtcdService, name: str, timeout: float | None) -> None:
        super().__init__(service, name, timeout)
        self._queue = Queue(f"{service.settings.prefix}{name}/")

    def _take(self, wait: Wait, shared: bool, purpose: str) -> EtcdHold | None:
        service = self.service
        service.enter()
        hold = None
        try:
            while hold is None:
                place = self._queue.place(service.session(), shared, service.node, purpose)
                token = self._waited(place, wait)
                if token is not None:
                    hold = EtcdHold(self, place, token)
                elif wait.over:
                    return None
            return hold
        finally:
            if hold is None:
                service.leave()

    def _waited(self, place: Place, wait: Wait) -> int | None:
        """The token; None when the wait is over, or the place was lost and another one must be taken."""
        service, timeout, before = self.service, self.service.settings.timeout, ""
        try:
            token = place.first(service.gateway, timeout, queue=wait.timeout != 0)
            while token is None and place.taken:
                token = place.again(service.gateway, timeout)
                if token is not None or not place.taken:
                    break
                if wait.over:
                    service.drop(place.key)
                    return None
                if place.before == before:
                    wait.pause(PAUSE)
                before = place.before
                place.wait(service.gateway, timeout, wait.left(SLICE))
                service._require_open()
        except BaseException:
            service.owe(place.key)
            raise
        return token

    def holder(self) -> Holder | None:
        return self._queue.look(self.service.gateway, self.service.settings.timeout)[0]

    def in_the_way(self) -> str:
        holder, reader = self._queue.look(self.service.gateway, self.service.settings.timeout)
        return str(holder) if holder else f"{reader}, shared" if reader else ""


class EtcdHold(Hold):
    """A key on a lease. `lost` asks the server, for at most a second; without an answer its own clock decides."""

    __slots__ = ("_place",)
    _lock: EtcdLock

    def __init__(self, lock: EtcdLock, place: Place, token: int) -> None:
        super().__init__(lock, token, shared=place.shared, since=place.since, purpose=place.purpose)
        self._place = place

    def _find_loss(self) -> str:
        service, term = self._lock.service, self._place.session.term
        if not term.loss:
            try:
                if not self._place.stands(service.gateway, min(service.settings.timeout, term.ttl / 10, 1.0)):
                    return "its key is gone from the server"
            except LockUnavailable:
                return term.loss
        return term.loss

    def _give_back(self) -> None:
        self._lock.service.drop(self._place.key)
        self._lock.service.leave()
