"""The service "volume": a peer has this node carry out steps of a check, on the volumes that are offered only.

Whoever asks is an authenticated peer, and still gets no further than `<volume>/.laila/probe-*`: see `ground`. A check
belongs to the peer that began it. Checks that nobody asks about any more are ended when the next begins, or with the
node.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import BadValue, Busy, LailaError
from .steps import Hands

MAX_CHECKS = 4
"""Checks under way at the same time; their steps may each keep a thread busy for some seconds."""
IDLE = 60.0
"""Seconds without a step after which a check counts as given up."""

TURN = 10.0
"""Seconds to wait for the step before to be done."""


class Asker(Protocol):
    """Who asks, as services are told."""

    @property
    def node_id(self) -> str: ...
    @property
    def origin(self) -> tuple[str, str] | None: ...


@dataclass(slots=True)
class _Check:
    """One peer's check. Its steps are carried out one at a time."""

    hands: Hands
    last: float
    busy: threading.Lock = field(default_factory=threading.Lock)


class VolumeService:
    """The handler to offer as "volume"; `roots`: the volumes. Close it with the node."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)
        self._checks: dict[tuple[str, str], _Check] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, asker: Asker, step: dict[str, Any], buffers: Sequence[Any] = ()) -> dict[str, Any]:
        """Carry out one step. Raises Denied, BadValue, Busy, StorageError."""
        who = (asker.node_id, asker.origin[0] if asker.origin is not None else "")
        if step.get("do") in ("hello", "time"):
            return Hands(roots=self._roots).carry_out(step)
        if step.get("do") == "keep":
            return Hands(may_keep=False).carry_out(step)  # which refuses
        check = self._begin(who) if step.get("do") == "begin" else self._find(who, step)
        if check is None:
            return {}
        if not check.busy.acquire(timeout=TURN):
            raise Busy("another step of this check is still being carried out; ask again later")
        try:
            check.last = time.monotonic()
            return check.hands.carry_out(step)
        finally:
            check.last = time.monotonic()
            check.busy.release()
            if check.hands.idle:
                self._forget(who, check)

    def close(self) -> None:
        """End all checks and take no more."""
        with self._lock:
            self._closed = True
            checks = list(self._checks.values())
            self._checks.clear()
        for check in checks:
            _end(check)

    def _begin(self, who: tuple[str, str]) -> _Check:
        now = time.monotonic()
        with self._lock:
            if self._closed:
                raise Busy("this node is stopping; ask another")
            left = {
                key: check for key, check in self._checks.items() if now - check.last > IDLE or key == who
            }
            for key in left:
                del self._checks[key]
            if len(self._checks) >= MAX_CHECKS:
                raise Busy(f"{MAX_CHECKS} checks of volumes are under way here already; try again later")
            check = self._checks[who] = _Check(Hands(roots=self._roots, may_keep=False), now)
        for abandoned in left.values():
            _end(abandoned)
        return check

    def _find(self, who: tuple[str, str], step: dict[str, Any]) -> _Check | None:
        """None for the end of what never began."""
        with self._lock:
            check = self._checks.get(who)
        if check is None and step.get("do") not in ("end", "remove"):
            raise BadValue("no check of this peer is under way here; the first step is `begin`")
        return check

    def _forget(self, who: tuple[str, str], check: _Check) -> None:
        with self._lock:
            if self._checks.get(who) is check:
                del self._checks[who]


def _end(check: _Check) -> None:
    if not check.busy.acquire(timeout=TURN):
        return  # it hangs on a volume that does not answer, and holds nothing that others wait for
    try:
        check.hands.close()
    except LailaError:
        return  # the volume is gone; the next check removes what is left
    finally:
        check.busy.release()
