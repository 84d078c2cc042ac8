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
    """Calls that wait for others, by entry."""

    __slots__ = ("_lock", "_parked")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parked: dict[str, list[Callable[[], None]]] = {}

    def __bool__(self) -> bool:
        """Whether anything might have to wait."""
        return bool(self._parked)

    def parked(self, ids: Sequence[str], submit: Callable[[], None]) -> bool:
        """Whether `submit` has to wait; it is called when its turn comes."""
        with self._lock:
            for one in ids:
                if one in self._parked:
                    self._parked[one].append(submit)
                    return True
        return False

    def first(self, ids: Sequence[str], answer: Answer) -> Answer:
        """A call with a large body goes out: later ones on these entries wait for the answer."""
        with self._lock:
            for one in ids:
                self._parked.setdefault(one, [])
        return _Releasing(self, ids, answer)

    def release(self, ids: Sequence[str]) -> None:
        with self._lock:
            turns = [turn for one in ids for turn in self._parked.pop(one, ())]
        for turn in turns:
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
