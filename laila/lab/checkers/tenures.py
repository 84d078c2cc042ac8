"""Who had a lock from when to when, by what clients asked and were told.

A client has the lock without doubt from the end of its `acquire` to the beginning of its `release`, if that went well.
Else no longer than it is known to have lived: it may have died right after its last answer, and the lock been taken
back. Where locks are leased, nobody has one longer than the lease, counted from when it was asked for.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from laila.lab.checkers.operations import FAIL, OK, UNKNOWN, Op

ACQUIRE, RELEASE = "acquire", "release"


@dataclass(frozen=True, slots=True, eq=False)
class Tenure:
    """One client had one lock once."""

    acquired: Op
    until: float
    """It had it until then, without doubt."""
    released: Op | None = None
    """None: it never asked to let go of it."""

    @property
    def client(self) -> str:
        return self.acquired.client

    @property
    def got(self) -> float:
        return self.acquired.end

    @property
    def sure(self) -> bool:
        return self.got <= self.until

    @property
    def lasted(self) -> bool:
        """Whether there is a time at which it had it without doubt. One that died then had it at some time since it
        asked: its answer may have come late.
        """
        return self.got < self.until

    @property
    def token(self) -> int | None:
        token = self.acquired.result
        return token if isinstance(token, int) else None

    @property
    def ops(self) -> tuple[Op, ...]:
        return (self.acquired,) if self.released is None else (self.acquired, self.released)

    def __str__(self) -> str:
        token = "" if self.token is None else f"token {self.token}, "
        until = f"to {self.until:.4f} s" if self.until < math.inf else "on"
        return f"{self.client} ({token}from {self.got:.4f} {until})"


@dataclass(slots=True)
class Taken:
    """What became of one lock."""

    tenures: list[Tenure]
    strays: list[Op]
    """Releases that went through, of what the client had never got."""
    doubtful: list[tuple[Op, Op]]
    """Acquisitions of which nobody knows, each with the release that went through later and shows that it was one."""


def tenures(ops: Iterable[Op], lease: float = 0.0) -> dict[str, Taken]:
    """For each lock, by key. `ops` are all operations of the clients, also those on other things: they show who lived.
    `lease` is in seconds; 0: a lock is held until it is let go.
    """
    by_client: dict[str, list[Op]] = defaultdict(list)
    for op in ops:
        by_client[op.client].append(op)
    found: dict[str, Taken] = defaultdict(lambda: Taken([], [], []))
    for own in by_client.values():
        own.sort(key=lambda op: (op.start, op.end))
        _of_client(own, found, lease)
    return dict(found)


def _of_client(own: Sequence[Op], found: dict[str, Taken], lease: float) -> None:
    having: dict[str, Op] = {}
    doubtful: dict[str, Op] = {}
    lived = -math.inf
    """When it has last answered."""

    def end(key: str, at: float, release: Op | None) -> None:
        acquired = having.pop(key)
        until = min(at, acquired.start + lease) if lease else at
        found[key].tenures.append(Tenure(acquired, until, release))

    for op in own:
        if op.op == ACQUIRE:
            found[op.key]  # is known from now on
            if op.key in having:  # asked again: it has given up the first one
                end(op.key, op.start, None)
            if op.outcome == OK:
                having[op.key] = op
            elif op.outcome == UNKNOWN:
                doubtful[op.key] = op
        elif op.op == RELEASE:
            if op.key in having:
                end(op.key, op.start if op.outcome == OK else max(lived, having[op.key].end), op)
            elif op.outcome == OK and op.key in doubtful:
                found[op.key].doubtful.append((doubtful.pop(op.key), op))
            elif op.outcome == OK:
                found[op.key].strays.append(op)
        if op.outcome in (OK, FAIL):
            lived = op.end
    for key in tuple(having):
        end(key, lived, None)
