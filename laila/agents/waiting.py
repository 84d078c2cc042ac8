"""Waiting for something to appear on a volume: by looking, because a network volume does not tell.

inotify sees what this machine's kernel does and nothing that another machine does, so it would work in tests and
fail where it matters. Looks begin close together and end up a quarter of a second apart.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import BadValue, DeadlineExceeded

_FIRST, _FACTOR, MOST = 0.002, 1.6, 0.25


def pauses(what: str, timeout: float) -> Iterator[float]:
    """Seconds to sleep before each further look. Raises DeadlineExceeded when the time is up, BadValue for no
    timeout.
    """
    if not isinstance(timeout, int | float) or not timeout >= 0:
        raise BadValue(f"a timeout is a number of seconds from 0, not {timeout!r}")
    end, pause = time.monotonic() + timeout, _FIRST
    while (left := end - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * _FACTOR, MOST)
    raise DeadlineExceeded(
        f"waited {timeout:g} s for {what}; wait longer, or see whether anybody works on it"
    )


def freshen(directory: Path) -> None:
    """Have a network file system ask its server anew about this directory: opening one does that, looking up a
    name in it may be answered from what the client remembers.
    """
    with contextlib.suppress(OSError):  # the look that follows says what is wrong
        os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
