"""Futures: what a verb returns at once. They wait, they can be awaited, and nobody keeps them once you let go.

A future whose answer comes over a link knows the link as its *driver*: the thread that waits drives the socket itself,
because a hop to another thread costs more than the whole round trip. Everybody else blocks on an event that exists
only while somebody blocks.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextvars import ContextVar, Token
from enum import Enum
from types import TracebackType
from typing import Any, Protocol, Self

from .errors import DeadlineExceeded


class Status(Enum):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class Driver(Protocol):
    """Whoever can make progress on a future in the thread that waits for it."""

    def drive(self, future: Future, deadline: float | None) -> None:
        """Return when the future is done or the monotonic deadline has passed."""


class Future:
    """The answer to one call. `len()` is the number of entries that it is about."""

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_data",
        "_error",
        "_event",
        "_value",
        "_what",
        "count",
        "done",
        "driver",
    )

    def __init__(self, what: str = "", count: int = 1) -> None:
        self._what = what
        self.driver: Driver | None = None
        self.count = count
        self.done = False
        self._value: Any = None
        self._data: Any = _PENDING
        self._error: BaseException | None = None
        self._event: threading.Event | None = None
        self._callbacks: list[Callable[[Future], object]] | None = None

    @property
    def what(self) -> str:
        """The call, in messages."""
        return self._what

    # ---- for those who wait ----

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the end, at most `timeout` seconds, and return `data`.

        Raises: DeadlineExceeded when it takes longer (the call itself goes on), else what the call failed with.
        """
        self.finish(timeout)
        return self.data

    @property
    def data(self) -> Any:
        """The payload or payloads of what was remembered, the id or ids of what was memorized. Waits."""
        if not self.done:
            self.finish(None)
        if self._error is not None:
            raise self._error
        if self._data is _PENDING:
            self._data = self._to_data(self._value)
        return self._data

    @property
    def result(self) -> Any:
        """The entry or entries that were remembered, for other calls the same as `data`. Waits."""
        if not self.done:
            self.finish(None)
        if self._error is not None:
            raise self._error
        return self._to_result(self._value)

    @property
    def exception(self) -> BaseException | None:
        """What the call failed with, or None. Waits."""
        if not self.done:
            self.finish(None)
        return self._error

    @property
    def status(self) -> Status:
        """Does not wait."""
        if not self.done:
            return Status.PENDING
        return Status.DONE if self._error is None else Status.FAILED

    def finish(self, timeout: float | None) -> None:
        """Wait for the end without looking at the outcome. Raises DeadlineExceeded."""
        if self.done:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        driver = self.driver
        if driver is not None:
            driver.drive(self, deadline)
        else:
            self.block(deadline)
        if not self.done:
            raise DeadlineExceeded(f"{self.what or 'a call'}: no answer within {timeout} s")

    def block(self, deadline: float | None) -> None:
        """Wait until another thread completes this future, or until the monotonic deadline."""
        with _making:
            event = self._event
            if event is None:
                event = self._event = threading.Event()
        if not self.done:
            event.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def add_done_callback(self, callback: Callable[[Future], object]) -> None:
        """Call `callback(future)` at the end, at once if it has ended; it must be quick and must not raise."""
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)
        if self.done:
            self._run_callbacks()

    def __await__(self) -> Generator[Any, None, Any]:
        if not self.done:
            import asyncio  # imported where somebody awaits: it costs 100 ms that others do not pay

            loop = asyncio.get_running_loop()
            waiter = loop.create_future()

            def settle() -> None:
                if not waiter.done():  # the task may have been cancelled meanwhile
                    waiter.set_result(None)

            def wake(_: Future) -> None:
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                    loop.call_soon_threadsafe(settle)

            self.add_done_callback(wake)
            driver = self.driver
            if driver is not None:
                driver.drive(self, 0.0)  # sends what is queued; the I/O thread reads the answer
            yield from waiter
        return self.data

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.what} {self.status.value}>"

    # ---- for those who answer ----

    def resolve(self, value: Any) -> None:
        self._value = value
        self._end()

    def reject(self, error: BaseException) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        self.done = True
        self.driver = None
        if self._event is not None:
            self._event.set()
        if self._callbacks is not None:
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        # pop is atomic, so each callback runs once even when the end and add_done_callback meet.
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:
                return
            try:
                callback(self)
            except Exception as error:  # other answers are being handed out in this thread
                sys.excepthook(type(error), error, error.__traceback__)

    def _to_data(self, value: Any) -> Any:
        return value

    def _to_result(self, value: Any) -> Any:
        return self.data


class FutureGroup(Sequence[Future]):
    """Several futures as one: waits for all, `data` in order, raises the first error in order."""

    def __init__(self, futures: Iterable[Future]) -> None:
        self._futures = list(futures)

    def wait(self, timeout: float | None = None) -> list[Any]:
        """Wait for all of them, at most `timeout` seconds in all, and return `data`."""
        wait_all(self._futures, timeout)
        return self.data

    @property
    def data(self) -> list[Any]:
        return [future.data for future in self._futures]

    @property
    def result(self) -> list[Any]:
        return [future.result for future in self._futures]

    @property
    def exception(self) -> BaseException | None:
        """The first error in order, or None."""
        return next((future.exception for future in self._futures if future.exception is not None), None)

    @property
    def status(self) -> Status:
        if not all(future.done for future in self._futures):
            return Status.PENDING
        return Status.DONE if self.exception is None else Status.FAILED

    def __await__(self) -> Generator[Any, None, list[Any]]:
        for future in self._futures:
            try:
                yield from future.__await__()
            except Exception:  # noqa: S112  # all are awaited first; `data` raises it below
                continue
        return self.data

    def __len__(self) -> int:
        return len(self._futures)

    def __iter__(self) -> Iterator[Future]:
        return iter(self._futures)

    def __getitem__(self, index: Any) -> Any:
        return self._futures[index]

    def __repr__(self) -> str:
        return f"<FutureGroup of {len(self)} {self.status.value}>"


def wait_all(futures: Sequence[Future], timeout: float | None = None) -> None:
    """Wait for the end of each, whatever it is. Raises DeadlineExceeded."""
    deadline = None if timeout is None else time.monotonic() + timeout
    for future in futures:
        if not future.done:
            future.finish(None if deadline is None else max(0.0, deadline - time.monotonic()))


# ---- guarantee ----


class _Collector:
    __slots__ = ("futures", "token")

    def __init__(self) -> None:
        self.futures: list[Future] = []
        self.token: Token[_Collector | None] | None = None


_making = threading.Lock()
"""Two threads that begin to wait for one future must wait on one event; held for that moment only."""
_collector: ContextVar[_Collector | None] = ContextVar("laila_guarantee", default=None)


def collect(future: Future) -> None:
    """Note a future that a verb has just made, for the guarantee block around it, if any."""
    collector = _collector.get()
    if collector is not None:
        collector.futures.append(future)


def _open() -> _Collector:
    collector = _Collector()
    collector.token = _collector.set(collector)
    return collector


def _close() -> list[Future]:
    collector = _collector.get()
    if collector is None or collector.token is None:
        raise RuntimeError("a guarantee block ended that was not begun in this context")
    _collector.reset(collector.token)
    return collector.futures


class Guarantee:
    """`with laila.guarantee:` ends when every call that was started inside has ended; raises the first error."""

    __slots__ = ()

    def __enter__(self) -> Self:
        _open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        futures = _close()
        if kind is None:
            wait_all(futures)
            _raise_first(futures)


class GuaranteeAsync:
    """`async with laila.guarantee_async:` does the same without blocking the event loop."""

    __slots__ = ()

    async def __aenter__(self) -> Self:
        _open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        futures = _close()
        if kind is None:
            await FutureGroup(futures)


def _raise_first(futures: Sequence[Future]) -> None:
    for future in futures:
        if future.exception is not None:
            raise future.exception


_PENDING: Any = object()
guarantee = Guarantee()
guarantee_async = GuaranteeAsync()
