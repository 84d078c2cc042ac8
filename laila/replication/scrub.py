"""Scrub: every replica reads and verifies all its bytes at rest; what is damaged is repaired from the others.

A replica puts what is damaged into quarantine itself, when it finds it (`Replica.scrub`). Here that is driven, in short
turns that all replicas have side by side, so that it can be paced, watched, given up, and done a little at a time
beside other work.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .calls import Crowd
from .pace import Pace
from .repair import Repair
from .replica import Health, Replica
from .reports import LISTED, SCRUB, Progress, RepairReport
from .tags import Stand

TURN = 1.0
"""Seconds that a turn lasts about; one large file may take longer."""
MOST = 256
"""Names that a turn has at most."""
PATIENCE = 600.0
"""Seconds after which a replica that is at one turn counts as one that hangs."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What a scrub found damaged on a replica, by where it is."""

    name: str
    replica: str
    reason: str


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """What a scrub did."""

    looked: int
    """Files that were read."""
    bytes: int
    damaged: tuple[Damage, ...]
    unreachable: Mapping[str, str]
    repaired: RepairReport | None
    """What became of the damaged ones; None when there were none, or they were not to be repaired."""
    seconds: float
    cancelled: bool = False

    @property
    def ok(self) -> bool:
        """Whether everything was read, and what was damaged is whole again."""
        mended = self.repaired.ok if self.repaired is not None else not self.damaged
        return mended and not self.unreachable and not self.cancelled

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "looked": self.looked,
            "bytes": self.bytes,
            "damaged": [
                {"name": one.name, "replica": one.replica, "reason": one.reason} for one in self.damaged
            ],
            "unreachable": dict(self.unreachable),
            "repair": None if self.repaired is None else self.repaired.as_dict(),
            "cancelled": self.cancelled,
            "seconds": round(self.seconds, 3),
        }


class Scrub:
    """One scrub of the replicas with these member ids (`where`: id and place). `turn` until it is `over`."""

    def __init__(
        self,
        crowd: Crowd,
        where: Mapping[str, str],
        *,
        rate: Pace | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._crowd = crowd
        self._where = dict(where)
        self._rate = rate or Pace()
        self._patience = patience
        self._going: dict[str, Iterator[tuple[str, Health]] | None] = dict.fromkeys(where)
        self.looked = 0
        self.bytes = 0
        self.damaged: list[Damage] = []
        self.unreachable: dict[str, str] = {}
        self.last = ""

    @property
    def over(self) -> bool:
        return not self._going

    def turn(self, cancel: threading.Event) -> tuple[list[str], float]:
        """Some more names on each replica: which are damaged, and the seconds to wait before the next turn."""
        answers = self._crowd.ask(self._going, self._some, lambda answers: cancel.is_set(), self._patience)
        found: list[str] = []
        size = 0
        for id, (healths, more) in answers.got.items():
            for name, health in healths:
                self.looked += 1
                self.last = name
                size += health.found.size if isinstance(health.found, Stand) else 0
                if not health.valid:
                    found.append(name)
                    if len(self.damaged) < LISTED:
                        self.damaged.append(Damage(name, self._where[id], health.error))
            if more is None:
                del self._going[id]
            else:
                self._going[id] = more
        reasons = {id: str(error) for id, error in answers.failed.items()}
        if not cancel.is_set():
            reasons |= dict.fromkeys(answers.silent, f"it was at one turn for {self._patience:g} s")
        for id, reason in reasons.items():
            self.unreachable[self._where[id]] = reason
        for id in {*answers.failed, *answers.silent}:  # a turn that is still under way has the iterator
            del self._going[id]
        self.bytes += size
        return list(dict.fromkeys(found)), self._rate.delay(size)

    def close(self) -> None:
        """Let go of what was begun and not ended."""
        going, self._going = self._going, {}
        for names in going.values():
            with contextlib.suppress(Exception):  # it is given up anyhow
                if isinstance(names, Generator):
                    names.close()

    def _some(
        self, id: str, replica: Replica
    ) -> tuple[list[tuple[str, Health]], Iterator[tuple[str, Health]] | None]:
        names = self._going[id] or replica.scrub()
        healths = []
        until = time.monotonic() + TURN
        for name, health in names:
            healths.append((name, health))
            if len(healths) == MOST or time.monotonic() >= until:
                return healths, names
        return healths, None


def scrub(
    repair: Repair,
    ids: Collection[str] | None = None,
    *,
    rate: Pace | None = None,
    mend: bool = True,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancel: threading.Event | None = None,
    patience: float = PATIENCE,
) -> ScrubReport:
    """Scrub all replicas of a store, or those with these member ids, and repair what was damaged.

    `rate`: bytes in a second, over all of them.
    """
    cancel = cancel or threading.Event()
    started = time.monotonic()
    where = {member.id: member.where for member in repair.view() if ids is None or member.id in ids}
    run = Scrub(repair.crowd, where, rate=rate, patience=patience)
    total = _total(repair, where)
    damaged: dict[str, None] = {}
    with contextlib.closing(run):
        while not run.over and not cancel.is_set():
            found, pause = run.turn(cancel)
            damaged |= dict.fromkeys(found)
            progress(Progress(run.looked, max(total, run.looked), run.bytes, run.last, SCRUB))
            cancel.wait(pause)
    repaired = None
    if damaged and mend and not cancel.is_set():
        repaired = repair.names(damaged, rate=rate, progress=progress, cancel=cancel)
    return ScrubReport(
        looked=run.looked,
        bytes=run.bytes,
        damaged=tuple(run.damaged),
        unreachable=run.unreachable,
        repaired=repaired,
        seconds=time.monotonic() - started,
        cancelled=cancel.is_set(),
    )


def _total(repair: Repair, ids: Collection[str]) -> int:
    """How many files there are about, for the progress."""
    answers = repair.crowd.ask(
        ids, lambda id, replica: replica.branches([""])[0].count, lambda answers: False, repair.timeout
    )
    return sum(answers.got.values())
