"""How long a caller still waits, and how a coroutine waits for work that blocks.

`Wait` is what a backend is given: it asks `over` between attempts and sleeps by `pause`. `in_thread` runs what blocks
in a thread of its own, so that the event loop goes on and no shared pool of threads can run dry of waiters.

Rule: what a thread obtained for a coroutine that was cancelled meanwhile is given back, exactly once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from laila.errors import BadValue

T = TypeVar("T")


class Wait:
    """Seconds that are left to a caller: `timeout` None = no end, 0 = one attempt without waiting.

    Raises BadValue for a timeout that is negative or not a number.
    """

    __slots__ = ("_given_up", "deadline", "timeout")

    def __init__(self, timeout: float | None, *, abandonable: bool = False) -> None:
        if timeout is not None:
            if not timeout >= 0:
                raise BadValue(f"a timeout is None or a number of seconds from 0, not {timeout!r}")
            if timeout == math.inf:
                timeout = None
        self.timeout = timeout
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self._given_up = threading.Event() if abandonable else None

    def give_up(self) -> None:
        """The caller went away: pauses end now, and `over` is True. From any thread; only for an abandonable wait."""
        if self._given_up is None:
            raise BadValue("this wait was not made abandonable")
        self._given_up.set()

    @property
    def endless(self) -> bool:
        """Whether nothing can end this wait but success: no time was set, and nobody can give it up."""
        return self.deadline is None and self._given_up is None

    @property
    def given_up(self) -> bool:
        """Whether the caller went away."""
        return self._given_up is not None and self._given_up.is_set()

    @property
    def over(self) -> bool:
        """Whether the time is up or the caller went away: make no other attempt."""
        if self._given_up is not None and self._given_up.is_set():
            return True
        return self.deadline is not None and time.monotonic() >= self.deadline

    def left(self, most: float) -> float:
        """Seconds that may be waited now: at most `most`, at least 0."""
        if self.deadline is None:
            return most
        return min(most, max(0.0, self.deadline - time.monotonic()))

    def pause(self, seconds: float) -> bool:
        """Sleep for `seconds`, or less when the wait ends before. Whether it goes on."""
        if self._given_up is None:
            time.sleep(self.left(seconds))
        else:
            self._given_up.wait(self.left(seconds))
        return not self.over


async def in_thread(
    work: Callable[[], T],
    *,
    give_up: Callable[[], None] | None = None,
    unwanted: Callable[[T], object] | None = None,
) -> T:
    """What `work()` returns or raises, computed in a thread of its own while the event loop goes on.

    When the awaiting task is cancelled, `give_up` is called at once; what `work` returns nevertheless goes to
    `unwanted`, outside the event loop's thread. Without `give_up` the work is carried on to its end, unobserved.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    crossing = _Crossing[T](unwanted)

    def run() -> None:
        crossing.run(work)
        try:
            loop.call_soon_threadsafe(arrived.set)
        except RuntimeError:  # the loop was closed while we worked: nobody will take it
            crossing.leave()

    threading.Thread(target=run, name="laila-lock", daemon=True).start()
    try:
        await arrived.wait()
    except BaseException:
        if give_up is not None:
            give_up()
        if crossing.leave_to_worker():
            threading.Thread(target=crossing.leave, name="laila-lock", daemon=True).start()
        raise
    return crossing.take()


class _Crossing(Generic[T]):
    """One result on its way from a thread to a coroutine: taken there, or given back here, never both."""

    __slots__ = ("_done", "_error", "_left", "_mutex", "_result", "_unwanted")

    def __init__(self, unwanted: Callable[[T], object] | None) -> None:
        self._mutex = threading.Lock()
        self._unwanted = unwanted
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._done = self._left = False

    def run(self, work: Callable[[], T]) -> None:
        """In the thread: do the work and keep what came of it, or give it back when nobody waits any more."""
        try:
            result = work()
        except BaseException as error:
            self._error = error
        else:
            self._result.append(result)
        with self._mutex:
            self._done = True
            left = self._left
        if left:
            self.leave()

    def leave_to_worker(self) -> bool:
        """The coroutine goes away. True when the result is there already, so that the caller must see to `leave`."""
        with self._mutex:
            self._left = True
            return self._done

    def leave(self) -> None:
        """Give back what nobody takes."""
        with self._mutex:
            results, self._result = self._result, []
        for result in results:
            if self._unwanted is not None:
                self._unwanted(result)

    def take(self) -> T:
        """In the coroutine: the result, or the error raised here."""
        if self._error is not None:
            raise self._error
        return self._result.pop()
