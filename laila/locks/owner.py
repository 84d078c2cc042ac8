"""Who asks for a lock within this process: an asyncio task where one runs, else a thread.

Locks are not re-entrant, so a holder that asks again would wait for itself; this is how it is recognised.
"""

from __future__ import annotations

import sys
import threading


def current_owner() -> object:
    """The running asyncio task, or the current thread where none runs. Compare by identity."""
    asyncio = sys.modules.get("asyncio")  # a program that never imported it has no tasks
    if asyncio is not None and asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return task
    return threading.current_thread()


def shares_thread(owner: object) -> bool:
    """Whether `owner` is a task of this thread's event loop: it cannot go on while this thread blocks."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or not isinstance(owner, asyncio.Task):
        return False
    running = asyncio._get_running_loop()
    return running is not None and owner.get_loop() is running
