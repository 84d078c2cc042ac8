"""The I/O thread: waits for sockets on behalf of everybody who does not wait for them in person.

Handlers run in this thread and must not block. Callers of other threads hand in work with `call_soon`. While requests
come in quick succession the thread polls for a moment before it blocks (a wake-up costs more than a request); each
round of polling in vain doubles the number of rounds that follow without any. With more than a few busy sockets it
does not poll: there is work enough, and the processor belongs to those who ask.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Protocol

READ = select.EPOLLIN | select.EPOLLRDHUP
WRITE = select.EPOLLOUT
_MOST_SKIPS = 256
_FEW = 3
_CENSUS = 64
"""After so many rounds the busy sockets are counted again."""
_PATROL = 0.005
_PATROL_MOST = 0.02
"""While callers see to everything themselves, patrols become rarer up to this."""


class Patrol(Enum):
    """What a patrol found."""

    BUSY = "busy"
    """Callers are at work and see to it themselves."""
    DONE = "done"
    """There is nothing left to look after."""
    LATE = "late"
    """Something had been left, which is done now, as is everything."""


class Handler(Protocol):
    def ready(self, mask: int) -> None:
        """The socket is readable, writable, or broken."""

    def patrol(self) -> Patrol:
        """Finish what a calling thread left for later."""


class Timer:
    """A call in the future; `cancel` forgets it."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self.call = None


class Reactor:
    """One thread, one epoll set, timers. `close` ends the thread and waits for it."""

    def __init__(self, name: str, *, spin: float = 0.0, failed: Callable[[BaseException], None]) -> None:
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        self._handlers: dict[int, Handler] = {}
        self._calls: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._spin = spin
        self._skips = 1
        self._skip = 0
        self._rounds = 0
        self._busy: set[int] = set()
        self._crowded = False
        self._failed = failed
        self._patrolled: set[Handler] = set()
        self._next_patrol = 0.0
        self._pause = _PATROL
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def inside(self) -> bool:
        """Whether the caller is the I/O thread."""
        return threading.get_ident() == self._thread.ident

    def add(self, descriptor: int, handler: Handler, mask: int) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, mask)

    def modify(self, descriptor: int, mask: int) -> None:
        self._poll.modify(descriptor, mask)

    def remove(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def call_soon(self, call: Callable[[], object]) -> None:
        """Run `call` in the I/O thread."""
        first = not self._calls
        self._calls.append(call)
        if first and not self._stopping:
            os.eventfd_write(self._wake, 1)

    def call_later(self, delay: float, call: Callable[[], object]) -> Timer:
        """Run `call` in the I/O thread after `delay` seconds."""
        timer = Timer(call)
        when = time.monotonic() + delay

        def enter() -> None:
            heapq.heappush(self._timers, (when, next(self._order), timer))

        if self.inside:
            enter()
        else:
            self.call_soon(enter)
        return timer

    def patrol(self, handler: Handler) -> None:
        """Look after `handler` within some milliseconds, and as long as it has work.

        Callers leave small things for later (a frame to send, a socket to watch again) because waking this thread at
        once would cost them more than the thing itself; mostly they do it themselves before the patrol comes.
        """
        if handler not in self._patrolled:
            self.call_soon(lambda: self._patrolled.add(handler))

    def close(self) -> None:
        """Run what was handed in, end the thread, free everything."""
        if self._stopping:
            return
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if not self.inside:
            self._thread.join()
            self._poll.close()
            os.close(self._wake)

    # ---- the thread ----

    def _run(self) -> None:
        busy = False
        while not self._stopping:
            busy = self._handle(self._wait(busy))
            self._run_calls()
            self._run_timers()
            if self._patrolled:
                self._run_patrols()
        self._run_calls()

    def _wait(self, busy: bool) -> list[tuple[int, int]]:
        poll = self._poll.poll
        if self._calls:  # handed in while others ran; whoever did saw a queue and woke nobody
            return poll(0)
        if busy and self._spin and not self._crowded:
            if self._skip:
                self._skip -= 1
            else:
                end = time.perf_counter() + self._spin
                while time.perf_counter() < end:
                    events = poll(0)
                    if events:
                        self._skips = 1
                        return events
                self._skip = self._skips
                self._skips = min(_MOST_SKIPS, self._skips * 2)
        timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1.0
        if self._patrolled and not 0.0 <= timeout < self._pause:
            timeout = self._pause
        return poll(timeout)

    def _handle(self, events: list[tuple[int, int]]) -> bool:
        """Whether a socket had something for us."""
        busy = False
        for descriptor, mask in events:
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
                continue
            handler = self._handlers.get(descriptor)
            if handler is None:
                continue
            busy = True
            self._busy.add(descriptor)
            try:
                handler.ready(mask)
            except Exception as error:  # one link's trouble must not end the others' thread
                self._failed(error)
        self._rounds += 1
        if self._rounds >= _CENSUS:
            self._crowded = len(self._busy) > _FEW
            self._busy.clear()
            self._rounds = 0
        return busy

    def _run_calls(self) -> None:
        for _ in range(len(self._calls)):
            self._guarded(self._calls.popleft())

    def _run_timers(self) -> None:
        now = time.monotonic() if self._timers else 0.0
        while self._timers and self._timers[0][0] <= now:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                self._guarded(call)

    def _run_patrols(self) -> None:
        now = time.monotonic()
        if now < self._next_patrol:
            return
        late = False
        for handler in list(self._patrolled):
            found = handler.patrol()
            late = late or found is Patrol.LATE
            if found is not Patrol.BUSY:
                self._patrolled.discard(handler)
        self._pause = _PATROL if late or not self._patrolled else min(_PATROL_MOST, self._pause * 2)
        self._next_patrol = now + self._pause

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # as above
            self._failed(error)
