"""Asking many replicas at once, each in threads of its own, so that one that hangs hangs nobody else.

The caller goes on as soon as the answers suffice. What was not answered by then goes on by itself: a put that comes
late still makes its replica newer. Threads are started as calls need them and end after a while without any. A replica
that has too many calls under way is not asked at all: it is taken for one that does not answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from ..errors import Busy, Closed, DeadlineExceeded
from .replica import Replica

T = TypeVar("T")

THREADS = 8
"""Calls to one replica that are carried out at the same time."""
MOST = 256
"""Calls to one replica that may wait for their turn."""
HEAVIEST = 64 << 20
"""Bytes that the calls which wait for one replica may keep: copies, in memory or in files without a name."""
TICK = 0.1
IDLE = 5.0
"""Seconds after which a thread without work ends."""
GRACE = 5.0
"""Seconds that closing waits for calls under way; one that hangs on a dead disk must not keep a program from ending."""


@dataclass(slots=True)
class Answers(Generic[T]):
    """What came of asking, by member id. `silent` have not answered yet."""

    got: dict[str, T] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    waited: float = 0.0
    """Seconds."""

    def reasons(self, where: Mapping[str, str]) -> dict[str, str]:
        """Why those that do not count do not, in words, by the place of each."""
        words = {id: str(error) for id, error in self.failed.items()}
        words |= {id: f"no answer within {self.waited:.1f} s" for id in self.silent}
        return {where.get(id, id): text for id, text in sorted(words.items())}


def said_of(where: str, words: str) -> str:
    """What is to be said of a replica, with its place once."""
    return f"{where}: {words.removeprefix(f'{where} ')}"


class Crowd:
    """Replicas by member id. Safe under threads; close it."""

    def __init__(self, replicas: Mapping[str, Replica]) -> None:
        self._lock = threading.Lock()
        self._desks = {id: _Desk(id, replica) for id, replica in replicas.items()}
        self._closed = False

    @property
    def replicas(self) -> dict[str, Replica]:
        """Who can be asked, by member id."""
        with self._lock:
            return {id: desk.replica for id, desk in self._desks.items()}

    def admit(self, id: str, replica: Replica) -> None:
        """From now on this one can be asked as well."""
        with self._lock:
            if self._closed:
                raise Closed("this store was closed; open it again")
            self._desks[id] = _Desk(id, replica)

    def dismiss(self, id: str) -> Replica | None:
        """From now on it is not asked any more; what was asked goes on. It is the caller's to close."""
        with self._lock:
            desk = self._desks.pop(id, None)
        if desk is None:
            return None
        desk.close()
        return desk.replica

    def ask(
        self,
        ids: Iterable[str],
        call: Callable[[str, Replica], T],
        enough: Callable[[Answers[T]], bool],
        timeout: float,
        after: Callable[[], None] | None = None,
        weight: int = 0,
    ) -> Answers[T]:
        """`call(id, replica)` of each. Returns when `enough`, or all have ended, or after `timeout` seconds.

        `after` is called once, when the last call has ended, which may be after this returned. `weight`: bytes that
        each call keeps until it has ended.
        """
        round = _Round[T](list(ids), after)
        for id in list(round.answers.silent):
            with self._lock:
                desk = None if self._closed else self._desks.get(id)
            if desk is None:
                round.end(id, None, Closed("it is not open here"))
            else:
                desk.take(partial(round.run, id, desk.replica, call), round, id, weight)
        return round.wait(enough, timeout)

    def close(self) -> None:
        """Take no more calls, wait for those under way, but not for ever. Idempotent. Closes no replica."""
        with self._lock:
            self._closed = True
            desks = list(self._desks.values())
        for desk in desks:
            desk.close()
        deadline = time.monotonic() + GRACE
        for desk in desks:
            desk.join(deadline)


class _Round(Generic[T]):
    """One question to some replicas."""

    def __init__(self, ids: list[str], after: Callable[[], None] | None) -> None:
        self.answers: Answers[T] = Answers(silent=set(ids))
        self._after = after
        self._changed = threading.Condition()
        self._closed = False
        if not ids and after is not None:
            after()

    def run(self, id: str, replica: Replica, call: Callable[[str, Replica], T]) -> None:
        try:
            value = call(id, replica)
        except Exception as error:
            self.end(id, None, error)
        else:
            self.end(id, value, None)

    def end(self, id: str, value: T | None, error: Exception | None) -> None:
        with self._changed:
            answers = self.answers
            answers.silent.discard(id)
            if error is not None:
                answers.failed[id] = error
            else:
                answers.got[id] = value  # type: ignore[assignment]  # T may be None
            last = not answers.silent
            self._changed.notify_all()
        if last and self._after is not None:
            self._after()

    def wait(self, enough: Callable[[Answers[T]], bool], timeout: float) -> Answers[T]:
        """A snapshot, when it is time."""
        began = time.monotonic()
        deadline = began + timeout
        with self._changed:
            while self.answers.silent and not enough(self.answers):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, TICK))  # what is enough may depend on the time
            answers = self.answers
            waited = time.monotonic() - began
            return Answers(dict(answers.got), dict(answers.failed), set(answers.silent), waited)


class _Desk:
    """One replica, its queue and its threads."""

    def __init__(self, id: str, replica: Replica) -> None:
        self.replica = replica
        self._id = id
        self._work: deque[tuple[Callable[[], None], int]] = deque()
        self._weight = 0
        self._ready = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False

    def take(self, work: Callable[[], None], round: _Round[T], id: str, weight: int) -> None:
        with self._ready:
            if self._closed:
                refusal: Exception | None = Closed("it was closed")
            elif len(self._work) >= MOST or (self._work and self._weight + weight > HEAVIEST):
                refusal = Busy(
                    f"{len(self._work)} calls wait for it already; it does not answer, or not fast enough"
                )
            else:
                refusal = None
                self._work.append((work, weight))
                self._weight += weight
                self._ready.notify()
                if self._idle < len(self._work) and len(self._threads) < THREADS:
                    # Daemons: a call that hangs on a dead disk must not keep the interpreter from ending.
                    thread = threading.Thread(
                        target=self._serve, name=f"laila-replica-{self._id[:8]}", daemon=True
                    )
                    self._threads.add(thread)
                    thread.start()
        if refusal is not None:
            round.end(id, None, refusal)

    def close(self) -> None:
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def join(self, deadline: float) -> None:
        with self._ready:
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _serve(self) -> None:
        while True:
            with self._ready:
                if not self._work and not self._closed:
                    self._idle += 1
                    self._ready.wait_for(lambda: self._work or self._closed, IDLE)
                    self._idle -= 1
                if not self._work:
                    self._threads.discard(threading.current_thread())
                    return
                work, weight = self._work.popleft()
                self._weight -= weight
            work()
            del work


def expect(answers: Answers[T], id: str, timeout: float) -> T:
    """The answer of one that was asked. Raises what it raised, DeadlineExceeded when it did not answer."""
    if id in answers.failed:
        raise answers.failed[id]
    if id in answers.got:
        return answers.got[id]
    raise DeadlineExceeded(f"no answer within {timeout:g} s")
