"""The lock of a directory of agents, opened when it is first needed: whoever only reads needs none."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .layout import SUMMARY, Layout
from .turn import Turns

if TYPE_CHECKING:
    from ..locks import LockService


class Locking:
    """`locks`: a lock service, which stays its owner's, or the address of one; None is flock on the volume.

    Raises UnsafeVolume where locks on the volume are known not to exclude and no service is given.
    """

    def __init__(self, layout: Layout, locks: LockService | str | None, timeout: float, node: str) -> None:
        from ..locks.holder import node_name

        self.node = node_name(node)
        self._layout = layout
        self._given = locks
        self._timeout = timeout
        self._mutex = threading.Lock()
        self._ours: LockService | None = None
        self._turns: Turns | None = None
        if locks is None:
            layout.admit()

    def turns(self) -> Turns:
        """Raises LockUnavailable, BadConfig."""
        with self._mutex:
            if self._turns is None:
                self._turns = Turns(self._service().lock(SUMMARY), self._timeout)
            return self._turns

    def close(self) -> None:
        with self._mutex:
            ours, self._ours, self._turns = self._ours, None, None
        if ours is not None:
            ours.close()

    def _service(self) -> LockService:
        from ..locks import FlockService, connect

        if self._given is None:
            self._ours = FlockService(self._layout.root, node=self.node)
        elif isinstance(self._given, str):
            self._ours = connect(self._given, node=self.node)
        else:
            return self._given
        return self._ours
