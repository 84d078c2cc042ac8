"""Locks in a Kubernetes cluster: one Lease object per name, changed by compare-and-swap on its resourceVersion.

Strategy: who asks goes to the end of the queue in the object (kubernetes_queue.py) and shows by a beat that it lives;
one thread renews the beats of all that this service holds or waits for. A hold is lost by our own clock before anybody
who saw the last beat may take it for dead (lease.py, kubernetes_view.py). Who waits watches the object.

Rules
- A hold that our own clock says is over is never renewed again, though the object may have it still.
- What may have been written without our knowing is owed: the keeper's thread takes it out, by a write in any case, so
  that a request that is still on its way meets a newer version and fails.

What it does not promise: that a Lease which somebody deletes keeps its lock. Then two can hold it at once, until the
first one asks (`lost`, `check`) or renews, which happens three times in a lease. Tokens rise all the same.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from laila.errors import LockUnavailable

from .base import Capabilities, Hold, Holder, Lock, LockService, Wait
from .kubernetes_gateway import Address, Gateway
from .kubernetes_queue import Member, State
from .kubernetes_view import View
from .lease import AGAIN, BEATS, Keeper, Term, now
from .server import Settings

SLICE = 0.5
"""Seconds after which who waits looks whether its caller went away or the service was closed."""
VIEWS = 4096
"""Names of which is remembered what was seen, beside those in use."""


class KubernetesService(LockService):
    """Locks at `kubernetes://[NAMESPACE]`: by KUBECONFIG, else the pod's service account, else `~/.kube/config`.

    Options in the address: `kubeconfig` (a file), `context`; and, also by name, `ttl` seconds of a lease (whole ones),
    `timeout` of one request, `prefix` of the names. Who locks needs a Role, see `k8s/locks`. Raises BadConfig; connects
    when first used.
    """

    kind = "kubernetes"
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
        self.settings, rest = Settings.of(url, ttl, timeout, prefix)
        self.seconds = math.ceil(self.settings.ttl)
        self._address = Address.of(rest)
        self._open()

    def _open(self) -> None:
        self.gateway = Gateway(self._address)
        self.server = self.gateway.server
        self._mutex = threading.Condition()
        self._views: OrderedDict[str, View] = OrderedDict()
        self._kept: dict[Place, View] = {}
        self._owed: dict[str, tuple[View, float]] = {}
        self._waiting = 0
        self._keeper = Keeper(self._beat, self._idle, self.seconds / BEATS)

    def _make(self, name: str, timeout: float | None) -> KubernetesLock:
        return KubernetesLock(self, name, timeout)

    def view(self, name: str) -> View:
        """What is known of a lock's object."""
        full = self.settings.prefix + name
        with self._mutex:
            found = self._views.get(full)
            if found is None:
                found = self._views[full] = View(self.gateway, full)
            self._views.move_to_end(full)
            if len(self._views) > VIEWS:
                oldest = next(iter(self._views))
                if not self._views[oldest].busy:
                    del self._views[oldest]
            return found

    def keep(self, place: Place, view: View) -> None:
        """It is renewed from now on."""
        with self._mutex:
            self._kept[place] = view
        self._keeper.wake()

    def owe(self, view: View, who: str) -> None:
        """Take it out later, if it is in; after a lease it is nothing to anybody."""
        with self._mutex:
            self._owed[who] = view, now() + self.seconds + self.settings.timeout
        self._keeper.wake(AGAIN)

    def leave(self, place: Place, view: View) -> None:
        """Take it out now, or else later. Does not raise."""
        with self._mutex:
            self._kept.pop(place, None)
        if not (self.closed and self._owed):  # else it did not answer a moment ago
            with contextlib.suppress(LockUnavailable):
                view.change(self.settings.timeout, _out(place.who), create=False)
                return
        self.owe(view, place.who)

    def _idle(self) -> bool:
        with self._mutex:
            return not self._kept and not self._owed

    def _beat(self) -> float:
        """Renew what is kept and pay what is owed; the seconds until this should be done again."""
        timeout = min(self.settings.timeout, self.seconds / BEATS)
        by_view: dict[View, list[Place]] = {}
        with self._mutex:
            for place, view in self._kept.items():
                by_view.setdefault(view, []).append(place)
        try:
            for view, places in by_view.items():
                self._renew(view, places, timeout)
            self._pay(timeout)
        except LockUnavailable:
            return min(self.seconds / (BEATS * 4), self.settings.timeout)
        return self.seconds / BEATS

    def _renew(self, view: View, places: list[Place], timeout: float) -> None:
        for place in places:
            if place.held and place.term.loss:
                place.term.broken(place.term.loss)
                with self._mutex:
                    self._kept.pop(place, None)
                self.owe(view, place.who)
        mine = {place.who: place for place in places if not (place.held and place.term.loss)}
        held = [place for place in mine.values() if place.held]

        def wish(state: State, version: int) -> State | None:
            beats = {who: place.beat() for who, place in mine.items() if state.find(who)}
            return state.without(view.dead(state) - mine.keys()).beaten(beats) if beats else None

        if not mine:
            return
        state, version = view.change(timeout, wish, create=False)
        for place in mine.values():
            place.saw(state, version)
        for place in held:
            if state.find(place.who) is None and (version >= place.version or not state.queue):
                place.term.broken(
                    "its lease ended: somebody took it out of the Lease object, or deleted that"
                )

    def _pay(self, timeout: float) -> None:
        with self._mutex:
            owed = dict(self._owed)
        for who, (view, until) in owed.items():
            if now() < until:
                view.change(timeout, _out(who, in_any_case=True), create=False)
            with self._mutex:
                self._owed.pop(who, None)

    def _shut(self) -> None:
        patience = self.settings.timeout + SLICE
        with self._mutex:
            views = list(self._views.values())
        for view in views:
            view.wake()
        with self._mutex:  # those who wait see now that it was closed, and leave their queues
            self._mutex.wait_for(lambda: self._waiting == 0, patience)
        self._keeper.close(patience)
        with contextlib.suppress(LockUnavailable):  # then the leases end by themselves
            self._pay(min(self.settings.timeout, 1.0))
        for view in views:
            view.close()
        self.gateway.close()

    def _after_fork(self) -> None:
        self._open()

    def __repr__(self) -> str:
        where = f"{self.gateway.namespace} at {self.server.where}"
        return f"<KubernetesService {where}{' closed' if self.closed else ''}>"


def _out(who: str, *, in_any_case: bool = False) -> Callable[[State, int], State | None]:
    """The wish that it is not in the queue; with a write though it is not, where that is asked for."""
    written = not in_any_case

    def wish(state: State, version: int) -> State | None:
        nonlocal written
        if written and state.find(who) is None:
            return None
        written = True
        return state.without({who})

    return wish


class Place:
    """One wish to hold a lock, from its first request to its end, and until when its lease certainly stands."""

    def __init__(self, shared: bool, seconds: int, node: str, purpose: str) -> None:
        self.who = secrets.token_hex(12)
        self.shared = shared
        self.seconds = seconds
        self.node = node
        self.purpose = purpose
        self.term = Term(now() - seconds, seconds)
        self.held = False
        self.version = 0
        """Of the object in which it was seen last."""
        self._mutex = threading.Lock()
        self._last = 0
        self._sent: dict[int, float] = {}

    def member(self) -> Member:
        """As it stands in a queue when it arrives."""
        own = Holder.here(self.node, 0, time.time(), self.purpose)
        described = (own.node, own.host, own.pid, own.since, own.purpose)
        return Member(self.who, self.shared, self.beat(), self.seconds, 0, *described)

    def beat(self) -> int:
        """A new beat, for a request that is sent after this."""
        with self._mutex:
            self._last += 1
            self._sent[self._last] = now()
            return self._last

    def saw(self, state: State, version: int) -> None:
        """The beat that the object has was sent at a time that is known here."""
        mine = state.find(self.who)
        if mine is None:
            return
        with self._mutex:
            self.version = max(self.version, version)
            sent = self._sent.get(mine.beat)
            self._sent = {beat: at for beat, at in self._sent.items() if beat >= mine.beat}
        if sent is not None:
            self.term.renewed(sent)


class KubernetesLock(Lock):
    """One name in a namespace. Waiting is in order of arrival, readers together; who waits dies with its lease."""

    service: KubernetesService

    def _take(self, wait: Wait, shared: bool, purpose: str) -> KubernetesHold | None:
        service = self.service
        view = service.view(self.name)
        place = Place(shared, service.seconds, service.node, purpose)
        with service._mutex:
            service._waiting += 1
        try:
            return self._queued(view, place, wait)
        except BaseException:
            with service._mutex:
                service._kept.pop(place, None)
            service.owe(view, place.who)
            raise
        finally:
            with service._mutex:
                service._waiting -= 1
                service._mutex.notify_all()

    def _queued(self, view: View, place: Place, wait: Wait) -> KubernetesHold | None:
        service, timeout, queue = self.service, self.service.settings.timeout, wait.timeout != 0
        if hold := self._asked(view, place, queue, trusting=False):
            return hold
        if not queue:
            return None
        with view.attended():
            while not wait.over and not service.closed:
                with view.changed:
                    serial, state = view.serial, view.state
                if hold := self._asked(view, place, queue, trusting=True):
                    return hold
                longest = max(0.01, view.until_death(state, place.who, place.shared) + 0.01)
                view.wait(serial, min(SLICE, longest, wait.left(SLICE)), timeout)
        service.leave(place, view)
        service._require_open()
        return None

    def _asked(self, view: View, place: Place, queue: bool, trusting: bool) -> KubernetesHold | None:
        """Do what the present state calls for: arrive, take the turn, put away the dead. The hold, if it is one now."""

        def wish(state: State, version: int) -> State | None:
            living = state.without(view.dead(state, but=place.who))
            turn = not living.ahead(place.who, place.shared)
            mine = living.find(place.who)
            if mine is None:
                if not turn and not queue:
                    return None
                living = living.joined(place.member())
            elif turn and place.shared and place.term.left < place.seconds / 4:
                living = living.beaten({place.who: place.beat()})
            if turn and not place.shared and not (mine and mine.token):
                living = living.sealed(place.who, version, place.beat(), time.time())
            return None if living == state else living

        service = self.service
        state, version = view.change(service.settings.timeout, wish, trusting=trusting)
        place.saw(state, version)
        if state.find(place.who) is None:
            return None
        mine = state.holds(place.who)
        if mine is None or place.term.left <= 0:
            service.keep(place, view)
            return None
        place.held = True
        service.keep(place, view)
        return KubernetesHold(self, view, place, mine.token or state.token, time.time())

    def _looked(self) -> State:
        view = self.service.view(self.name)
        state = view.look(self.service.settings.timeout)
        return state.without(view.dead(state))

    def holder(self) -> Holder | None:
        writer = self._looked().writer()
        return writer.holder() if writer else None

    def in_the_way(self) -> str:
        state = self._looked()
        writer, readers = state.writer(), state.readers()
        if writer:
            return str(writer.holder())
        return f"{len(readers)} shared holders, one is {readers[0].holder()}" if readers else ""


class KubernetesHold(Hold):
    """A place in a Lease object. `lost` asks the server, for at most a second; else our own clock decides."""

    __slots__ = ("_place", "_view")
    _lock: KubernetesLock

    def __init__(self, lock: KubernetesLock, view: View, place: Place, token: int, since: float) -> None:
        super().__init__(lock, token, shared=place.shared, since=since, purpose=place.purpose)
        self._view = view
        self._place = place

    def _find_loss(self) -> str:
        place, term = self._place, self._place.term
        if not term.loss:
            timeout = min(self._lock.service.settings.timeout, term.ttl / 10, 1.0)
            try:
                if self._view.look(timeout).holds(place.who) is None:
                    term.broken(
                        "it is no longer in the Lease object: it was taken out, or the object was deleted"
                    )
            except LockUnavailable:
                return term.loss
        return term.loss

    def _give_back(self) -> None:
        self._lock.service.leave(self._place, self._view)
