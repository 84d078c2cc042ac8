"""Worker threads for pools that wait on disks and networks, with the order of calls on one key kept.

Calls of one source that touch the same key run in the order in which they came; all others run side by side.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

from .errors import Closed


class _Task:
    __slots__ = ("call", "followers", "keys", "waits")

    def __init__(self, call: Callable[[], object], keys: Sequence[Hashable]) -> None:
        self.call = call
        self.keys = keys
        self.waits = 0
        self.followers: list[_Task] = []


class Lanes:
    """`submit(call, keys)`; `close` waits for what was submitted."""

    def __init__(self, workers: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=f"laila-worker-{name}")
        self._idle = threading.Condition()
        self._running = 0
        self._last: dict[Hashable, _Task] = {}
        self._closed = False

    def submit(self, call: Callable[[], object], keys: Sequence[Hashable] = ()) -> None:
        """Run `call`, which must not raise, in a worker. Raises Closed."""
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
        self._executor.submit(self._run, task)

    def _run(self, task: _Task) -> None:
        try:
            task.call()
        finally:
            with self._idle:
                for key in task.keys:
                    if self._last.get(key) is task:
                        del self._last[key]
                self._running -= 1
                self._idle.notify_all()
                free = []
                for follower in task.followers:
                    follower.waits -= 1
                    if not follower.waits:
                        free.append(follower)
            for follower in free:
                self._executor.submit(self._run, follower)

    def close(self, timeout: float | None = None) -> None:
        """Take no more calls, wait for those that were taken; at most `timeout` seconds."""
        with self._idle:
            self._closed = True
            done = self._idle.wait_for(lambda: self._running == 0, timeout)
        self._executor.shutdown(wait=done, cancel_futures=not done)
