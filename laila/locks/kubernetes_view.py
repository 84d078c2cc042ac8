"""One Lease object as this process sees it: its newest state, changes by compare-and-swap, and who was seen alive when.

Nobody's clock is trusted: a member is taken for dead when its beat has not changed for its whole lease, by our own
monotonic clock, since we first *saw* this beat. It was written before that, and its owner counts from before it sent
it. And whoever removes it does so by compare-and-swap on the very object that was seen.

Who waits is woken by a watch, which one thread keeps for all that wait here. Where there is none, because it broke or
is not allowed, the object is asked for, every BLIND seconds; and every POLL seconds in any case.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from laila.errors import LockUnavailable

from .kubernetes_gateway import Expired, Gateway
from .kubernetes_queue import Member, State, fresh, object_name, state_of, version_of, written
from .lease import now

WATCH = 20
"""Seconds of one watch: the thread ends at the end of one for which nobody waits any more."""
POLL, BLIND = 5.0, 0.5
CALM = 0.02
"""Seconds that who lost a race waits at most before the next try; it doubles each time, up to sixteen times that."""

Wish = Callable[[State, int], State | None]
"""What a caller wants of a state, whose resourceVersion is given too; None for nothing: it is fine as it is."""


class View:
    """The object of one lock; `full` is the lock's name with its prefix. Safe under threads."""

    def __init__(self, gateway: Gateway, full: str) -> None:
        self.full = full
        self.name = object_name(full)
        self.changed = threading.Condition()
        self.serial = 0
        """Of what was seen: it rises with every change."""
        self.state = State()
        self.version = 0
        self._gateway = gateway
        self._lease: dict[str, Any] | None = None
        self._known = False
        self._heard = -BLIND
        self._seen: dict[str, tuple[int, float]] = {}
        self._turn = threading.Lock()
        self._waiters = 0
        self._watching = self._following = self._closed = False
        self._answer: Any = None

    # --- asking and changing

    def look(self, timeout: float) -> State:
        """The state as the server has it now. Raises LockUnavailable, here and below."""
        before = self.serial
        lease = self._gateway.get(timeout, self.name)
        return self._saw(lease, unless=before)

    def change(
        self, timeout: float, wish: Wish, *, trusting: bool = False, create: bool = True
    ) -> tuple[State, int]:
        """Fulfil a wish; the state in which it is fulfilled, with its version. `create`: make it if it is not there.

        With `trusting`, a wish that has nothing to do is believed from what was seen last. A write may have been
        carried out although this raises.
        """
        until = now() + timeout
        calm, current = CALM, False
        with self._courtesy(timeout):
            while True:
                if not self._known:
                    self.look(max(until - now(), 0.01))
                    current = True
                lease, state, version = self._present()
                if lease is None and create:
                    self._create(max(until - now(), 0.01))
                    current = True
                    continue
                wanted = wish(state, version)
                if wanted is None or lease is None:
                    if current or trusting:
                        return state, version
                elif (done := self._write(lease, state, wanted, max(until - now(), 0.01))) is not None:
                    return done
                elif now() >= until:
                    raise self._gateway.failed(f"others changed the Lease {self.name} all the time")
                else:
                    time.sleep(random.uniform(0, calm))  # noqa: S311  # so that rivals come one after another
                    calm = min(calm * 2, CALM * 16)
                self.look(max(until - now(), 0.01))
                current = True

    def _write(
        self, lease: dict[str, Any], old: State, new: State, timeout: float
    ) -> tuple[State, int] | None:
        try:
            body = written(lease, old, new, time.time())
        except ValueError as error:
            raise self._gateway.failed(f"the Lease {self.name}: {error}") from None
        answer = self._gateway.replace(timeout, body)
        return None if answer is None else (self._saw(answer), version_of(answer))

    def _create(self, timeout: float) -> None:
        """Empty, and taken by a second write: its first version must be known before anybody gets a token."""
        answer = self._gateway.create(timeout, fresh(self._gateway.namespace, self.name, self.full))
        if answer is None:
            self.look(timeout)
        else:
            self._saw(answer)

    @contextlib.contextmanager
    def _courtesy(self, timeout: float) -> Iterator[None]:
        """Threads of one process take turns, so that they lose no races against each other; no correctness is in it."""
        got = self._turn.acquire(timeout=timeout)
        try:
            yield
        finally:
            if got:
                self._turn.release()

    def _present(self) -> tuple[dict[str, Any] | None, State, int]:
        with self.changed:
            return self._lease, self.state, self.version

    def _saw(self, lease: dict[str, Any] | None, *, unless: int | None = None, newer: bool = False) -> State:
        """This is the object now. `unless` that serial has passed and it is an older one; or only if it is `newer`."""
        try:
            state = State() if lease is None else state_of(lease, self.full)
            version = self.version if lease is None else version_of(lease)
        except (ValueError, KeyError, TypeError) as error:
            raise self._gateway.failed(
                f"the Lease {self.name} in {self._gateway.namespace}: {error}"
            ) from None
        with self.changed:
            self._heard = now()
            passed = unless is not None and self.serial != unless and lease is not None
            if version < self.version and (newer or passed):
                return state
            if not self._known or version != self.version or (lease is None) != (self._lease is None):
                self.serial += 1
                self.changed.notify_all()
            self._lease, self.state, self.version, self._known = lease, state, version, True
            seen = self._seen
            self._seen = {
                each.who: seen[each.who]
                if seen.get(each.who, (None,))[0] == each.beat
                else (each.beat, self._heard)
                for each in state.queue
            }
            return state

    # --- who lives

    def dead(self, state: State, *, but: str = "") -> frozenset[str]:
        """Those whose beat has stood still for their whole lease, except one."""
        return frozenset(each.who for each in state.queue if each.who != but and self._left(each) <= 0)

    def until_death(self, state: State, who: str, shared: bool) -> float:
        """Seconds until the first of those in the way of `who` may be taken for dead."""
        return min((self._left(each) for each in state.ahead(who, shared)), default=0.0)

    def _left(self, member: Member) -> float:
        with self.changed:
            beat, since = self._seen.get(member.who, (None, 0.0))
        return since + member.seconds - now() if beat == member.beat else float(member.seconds)

    # --- waiting

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """Changes are watched for while the block runs."""
        with self.changed:
            self._waiters += 1
            if not self._watching and not self._closed:
                self._watching = True
                threading.Thread(target=self._watch, name=f"laila-watch {self.name}", daemon=True).start()
        try:
            yield
        finally:
            with self.changed:
                self._waiters -= 1

    def wait(self, serial: int, seconds: float, timeout: float) -> None:
        """Until something has changed since that serial; for that long at most. Asks when it is time to ask."""
        with self.changed:
            if self.serial == serial and not self._closed:
                self.changed.wait(seconds)
            silent = now() - self._heard
            due = self.serial == serial and silent >= (POLL if self._following else BLIND)
        if due:
            self.look(timeout)

    @property
    def busy(self) -> bool:
        """Whether somebody waits, or a thread watches."""
        return self._watching or self._waiters > 0

    def wake(self) -> None:
        """Who waits looks whether it should go on."""
        with self.changed:
            self.changed.notify_all()

    def close(self) -> None:
        """End the watch."""
        with self.changed:
            self._closed = True
            answer = self._answer
            self.changed.notify_all()
        if answer is not None:
            self._gateway.cut(answer)

    def _watch(self) -> None:
        while True:
            with self.changed:
                if self._closed or not self._waiters:
                    self._watching = False
                    return
                version = self.version
            try:
                self._follow(version)
            except Expired:
                with contextlib.suppress(LockUnavailable):
                    self.look(POLL)
            except LockUnavailable:
                with self.changed:  # meanwhile those who wait ask, and say what is wrong
                    if not self._closed:
                        self.changed.wait_for(lambda: self._closed, BLIND)

    def _follow(self, version: int) -> None:
        answer = self._gateway.watch(POLL, self.name, version, WATCH)
        with self.changed:
            self._answer, closed, self._following = answer, self._closed, True
        try:
            if closed:
                answer.close()
                return
            for there, lease in self._gateway.events(answer):
                if there or version_of(lease) > self.version:  # else it was made anew since
                    self._saw(lease if there else None, newer=there)
        finally:
            with self.changed:
                self._answer, self._following = None, False
