"""Worker threads for pools that wait on disks and networks, with the order of calls on one key kept.

Calls of one source that touch the same key run in the order in which they came; all others run side by side. Where no
thread can be started any more, the workers that there are do it all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

from .errors import Busy, Closed

_NO_THREAD = "can't start new thread"
"""What Python says; the executor has put the call into its queue by then."""


class _Task:
    __slots__ = ("call", "dropped", "followers", "keys", "waits")

    def __init__(self, call: Callable[[], object], keys: Sequence[Hashable]) -> None:
        self.call = call
        self.keys = keys
        self.waits = 0
        self.dropped = False
        self.followers: list[_Task] = []

    def drop(self) -> None:
        """It lies in the executor's queue, for a worker that may come, and is not to be run."""
        self.dropped, self.call = True, lambda: None


class Lanes:
    """`submit(call, keys)`; `close` waits for what was submitted."""

    def __init__(self, workers: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=f"laila-worker-{name}")
        self._idle = threading.Condition()
        self._running = 0
        self._last: dict[Hashable, _Task] = {}
        self._working = False
        """Whether there is a worker; they stay until the end."""
        self._closed = False

    def submit(self, call: Callable[[], object], keys: Sequence[Hashable] = ()) -> None:
        """Run `call`, which must not raise, in a worker.

        Raises Closed, and Busy where there is no worker and none can be started: then it will not be run.
        """
        task = _Task(call, keys)
        with self._idle:
            if self._closed:
                raise Closed("this node is closing; it takes no more calls")
            self._running += 1
            before: set[int] = set()
            for key in keys:
                last = self._last.get(key)
                if last is not None and last is not task and id(last) not in before:
                    before.add(id(last))
                    last.followers.append(task)
                    task.waits += 1
                self._last[key] = task
            if task.waits:
                return
            try:
                self._hand_over(task)
            except RuntimeError as error:
                task.drop()
                self._forget(task)
                if _NO_THREAD not in str(error):
                    raise Closed(f"this program is ending; it takes no more calls ({error})") from error
                raise Busy(f"this node {error}; ask again in a moment") from error

    def _hand_over(self, task: _Task) -> None:
        """Raises RuntimeError when no thread can be started and nobody is there to do it, and when the program ends."""
        try:
            self._executor.submit(self._run, task)
        except RuntimeError as error:
            if not self._working or _NO_THREAD not in str(error):
                raise
        self._working = True

    def _run(self, task: _Task) -> None:
        if task.dropped:
            return
        try:
            task.call()
        finally:
            with self._idle:
                self._forget(task)
                free = []
                for follower in task.followers:
                    follower.waits -= 1
                    if not follower.waits:
                        free.append(follower)
            for follower in free:
                self._hand_over(follower)

    def _forget(self, task: _Task) -> None:
        for key in task.keys:
            if self._last.get(key) is task:
                del self._last[key]
        self._running -= 1
        self._idle.notify_all()

    def close(self, timeout: float | None = None) -> None:
        """Take no more calls, wait for those that were taken; at most `timeout` seconds."""
        with self._idle:
            self._closed = True
            done = self._idle.wait_for(lambda: self._running == 0, timeout)
        self._executor.shutdown(wait=done, cancel_futures=not done)
