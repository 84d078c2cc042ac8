"""A turn at replacing files of the directory: the lock, held, and the checks that go right before a rename."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..artifacts import read_head
from ..errors import ArtifactError, LockLost
from ..locks import Hold, Lock
from ..shared.trouble import told


class Turns:
    """Turns of one writer. `timeout`: seconds to wait for one."""

    def __init__(self, lock: Lock, timeout: float) -> None:
        self._lock = lock
        self._timeout = timeout

    @contextlib.contextmanager
    def take(self, purpose: str) -> Iterator[Turn]:
        """Raises LockTimeout (says who holds it), LockUnavailable."""
        with self._lock.hold(self._timeout, purpose=purpose) as hold:
            yield Turn(hold)

    @contextlib.contextmanager
    def take_if_free(self, purpose: str) -> Iterator[Turn | None]:
        """The same without waiting; None when somebody else has it. Raises LockUnavailable."""
        hold = self._lock.try_acquire(purpose=purpose)
        if hold is None:
            yield None
            return
        with hold:
            yield Turn(hold)


class Turn:
    """One hold of the lock."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    @property
    def fence(self) -> int:
        return self._hold.token

    def guard(self, path: Path) -> None:
        """Raises LockLost when this turn is over: the lock was lost, or somebody with a later one has replaced
        `path`.
        """
        self._hold.check()
        try:
            with told(f"read {path}"):
                fence = read_head(path).fence
        except (FileNotFoundError, ArtifactError):  # nothing there that could be newer
            return
        if fence > self.fence:
            raise LockLost(
                f"{path} was replaced meanwhile under fencing token {fence}, after this one's {self.fence}; "
                "do it again"
            )
