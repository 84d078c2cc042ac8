"""The order of calls on one entry, where a large body would upset it.

Small requests overtake bodies that wait for credit. So what concerns an entry whose body is still on its way is parked
here until that call has its answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from ..codec import Buffer
from ..errors import LailaError


class Answer(Protocol):
    """Whoever made a request: a future, or the relay of somebody else's."""

    def answered(self, envelope: bytes, buffers: tuple[Buffer, ...]) -> None: ...
    def failed(self, error: LailaError) -> None: ...


class Order:
    """Calls that wait for others, by entry. An entry keeps its queue until the last call in it has gone."""

    __slots__ = ("_busy", "_draining", "_lock", "_queues")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, list[Callable[[], None]]] = {}
        self._busy: set[str] = set()
        self._draining: set[str] = set()

    def __bool__(self) -> bool:
        """Whether anything might have to wait."""
        return bool(self._queues)

    def parked(self, ids: Sequence[str], submit: Callable[[], None]) -> bool:
        """Whether `submit` has to wait; it is called when its turn comes, and must not ask again."""
        with self._lock:
            for one in ids:
                if one in self._queues:
                    self._queues[one].append(submit)
                    return True
        return False

    def first(self, ids: Sequence[str], answer: Answer) -> Answer:
        """A call with a large body goes out: later ones on these entries wait for the answer."""
        with self._lock:
            self._busy.update(ids)
            for one in ids:
                self._queues.setdefault(one, [])
        return _Releasing(self, ids, answer)

    def release(self, ids: Sequence[str]) -> None:
        """The answer is here: let the next ones go, up to the next large one."""
        with self._lock:
            self._busy.difference_update(ids)
        for one in ids:
            self._drain(one)

    def _drain(self, one: str) -> None:
        with self._lock:
            if one in self._draining or one not in self._queues:
                return  # another thread is at it, and goes on
            self._draining.add(one)
        while True:
            with self._lock:
                queue = self._queues[one]
                if one in self._busy or not queue:
                    self._draining.discard(one)
                    if one not in self._busy:
                        del self._queues[one]
                    return
                turn = queue.pop(0)
            turn()


class _Releasing:
    """Tells the caller first, then lets the next ones go."""

    __slots__ = ("_answer", "_ids", "_order")

    def __init__(self, order: Order, ids: Sequence[str], answer: Answer) -> None:
        self._order = order
        self._ids = ids
        self._answer = answer

    def answered(self, envelope: bytes, buffers: tuple[Buffer, ...]) -> None:
        self._answer.answered(envelope, buffers)
        self._order.release(self._ids)

    def failed(self, error: LailaError) -> None:
        self._answer.failed(error)
        self._order.release(self._ids)
