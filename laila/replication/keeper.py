"""The keeper: one thread that sees to it that the replicas of a store come to agree again, and says how far they are.

It pays what is owed (hints.py) as soon as a replica answers again, compares digest trees every `interval` seconds, and
reads all bytes at rest in every `scrub_every` seconds, a little at a time.

Who does what, when several nodes keep the same store
- Each keeper pays what its own process owed: nobody else knows of it.
- Each is responsible for the replicas that are `mine`: those that its node serves. It pulls to them what they lack, and
  scrubs them; bytes at rest do not travel for that. Every `NEIGHBOURS`-th comparison it repairs all others as well, for
  a keeper may be dead whose replica is not.
- Without any of its own (a program with a store on plain directories), it is responsible for all.
- Everything has jitter, comparing what agrees costs one exchange, and whatever is put is "only if newer": two that do
  the same work at the same time waste a little, and harm nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ..clock import SYSTEM, Clock
from ..errors import BadConfig, LailaError
from .calls import said_of
from .hints import EVERYTHING, Hints
from .pace import Pace
from .repair import Repair
from .reports import Progress, RepairReport
from .scrub import Scrub

log = logging.getLogger("laila.replication")
log.addHandler(logging.NullHandler())  # what a program does not want to hear, it need not

INTERVAL = 300.0
SCRUB_EVERY = 7 * 86400.0
RATE = 32 << 20
"""Bytes in a second that repairs take at most."""
SCRUB_RATE = 8 << 20
"""Bytes in a second that a scrub reads at most."""
NEIGHBOURS = 4
SOON = 0.2
"""Seconds that a new debt waits: most often there are more."""
FIRST_TRY = 0.5
LONGEST_TRY = 30.0
"""Seconds between two tries to pay a replica that does not answer."""
POLL = 5.0
"""Seconds after which another process' debts are noticed, and clocks are looked at again."""
PING = 5.0
_AT_ONCE = 256
_SCRUBBED = "scrubbed"


class Keeper:
    """Keeps the replicas of one store; begins at once. Close it.

    `mine`: member ids for which this keeper is responsible, or what tells them; none: all. `interval` and `scrub_every`
    in seconds (None: no scrubs), `rate` and `scrub_rate` in bytes a second (None: as fast as it goes). `state`: a
    directory in which it remembers over restarts when it scrubbed last. `rebuilt` is called after a pass in which a
    replica came to count again.
    """

    def __init__(
        self,
        repair: Repair,
        hints: Hints,
        *,
        mine: Collection[str] | Callable[[], Collection[str]] = (),
        interval: float = INTERVAL,
        scrub_every: float | None = SCRUB_EVERY,
        rate: float | None = RATE,
        scrub_rate: float | None = SCRUB_RATE,
        state: str | os.PathLike[str] | None = None,
        rebuilt: Callable[[], None] = lambda: None,
        clock: Clock = SYSTEM,
        chance: random.Random | None = None,
    ) -> None:
        for what, seconds in (("interval", interval), ("scrub_every", scrub_every)):
            if seconds is not None and not 0 < seconds < math.inf:
                raise BadConfig(f"{what} is a number of seconds above zero, not {seconds!r}")
        self._repair = repair
        self._hints = hints
        self._mine = mine if callable(mine) else lambda: mine
        self._interval = interval
        self._scrub_every = scrub_every
        self._rate = Pace(rate, clock=clock)
        self._scrub_rate = Pace(scrub_rate, clock=clock)
        self._rebuilt = rebuilt
        self._state = None if state is None else Path(state)
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311  # for jitter
        self._over = threading.Event()
        self._woken = threading.Event()
        self._mutex = threading.Lock()
        self._doing = "idle"
        self._progress: Progress | None = None
        self._troubles: dict[str, str] = {}
        self._counters = {
            "comparisons": 0,
            "repairs": 0,
            "bytes": 0,
            "failures": 0,
            "quorum_failures": 0,
            "paid": 0,
            "scrubbed": 0,
            "damaged": 0,
        }
        self._compared_at: float | None = None
        self._behind: dict[str, int] = {}
        self._compared: dict[str, float] = {}
        self._unreachable: dict[str, str] = {}
        self._waits: dict[str, float] = {}
        self._try_at: dict[str, float] = {}
        self._passes = 0
        self._haste: float | None = None
        self._scrub: Scrub | None = None
        now = clock.now()
        self._pay_at = now
        self._compare_at = now + self._chance.uniform(0, min(2.0, interval / 10))
        self._scrubbed_at = self._scrubbed_before()
        self._scrub_at = now + self._scrub_in()
        self._thread = threading.Thread(target=self._run, name="laila-keeper", daemon=True)
        self._thread.start()

    # -- for the others ----------------------------------------------------------------------------------

    def owe(self, replica: str, name: str) -> None:
        """A replica (member id) did not take the newest version of a name. Fails only for what can be no name."""
        self._hints.owe(replica, name)
        with self._mutex:
            if replica not in self._waits:  # else it is tried when its time has come
                self._pay_at = min(self._pay_at, self._clock.now() + SOON)
                self._woken.set()

    def wake(self, replica: str | None = None) -> None:
        """A replica (member id), or nobody knows which, may answer again: try now."""
        now = self._clock.now()
        with self._mutex:
            for id in [*self._waits] if replica is None else [replica]:
                self._waits.pop(id, None)
                self._try_at.pop(id, None)
            self._haste = None
            self._pay_at = now
            self._compare_at = min(self._compare_at, now + self._chance.uniform(0, min(1.0, self._interval)))
        self._woken.set()

    def note_quorum_lost(self) -> None:
        """Somebody's read or write had no quorum: for the counters."""
        self._count(quorum_failures=1)

    @property
    def trouble(self) -> str | None:
        """What keeps the replicas from agreeing, in words; None when nothing does."""
        with self._mutex:
            return "; ".join(self._troubles.values()) or None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def status(self) -> dict[str, Any]:
        """For JSON. Of each replica: `behind`, the names of which it lacked the newest version when it was `compared`
        last (None: it never was, or could not be asked then), `owed`, a number of names or "everything", and
        `error`, why it could not be asked. Times are of the epoch.
        """
        owed: dict[str, list[str]] = {}
        with contextlib.suppress(OSError):
            owed = self._hints.owed()
        members = list(self._repair.view())
        with self._mutex:
            progress = self._progress
            return {
                **self._counters,
                "doing": self._doing,
                "progress": None
                if progress is None
                else {
                    "done": progress.done,
                    "total": progress.total,
                    "bytes": progress.bytes,
                    "name": progress.name,
                    "phase": progress.phase,
                },
                "compared_at": self._compared_at,
                "scrubbed_at": self._scrubbed_at,
                "trouble": "; ".join(self._troubles.values()) or None,
                "replicas": [
                    {
                        "id": member.id,
                        "where": member.where,
                        "behind": self._behind.get(member.where),
                        "compared": self._compared.get(member.where),
                        "owed": _amount(owed.get(member.id, [])),
                        "error": self._unreachable.get(member.where),
                    }
                    for member in members
                ],
            }

    def close(self, timeout: float = 10.0) -> None:
        """End, within seconds: what is under way is given up. Idempotent."""
        self._over.set()
        self._woken.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    # -- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._over.is_set():
            for work in (self._pay, self._compare, self._scrub_some):
                try:
                    work()
                except Exception as error:  # the thread outlives whatever goes wrong
                    self._complain(work.__name__, f"{type(error).__name__}: {error}")
                    log.debug("the keeper's work failed", exc_info=True)
                    self._later(work.__name__)
            self._set("idle", None)
            with self._mutex:
                due = min(self._pay_at, self._compare_at, self._scrub_at, *self._try_at.values())
            self._woken.wait(min(POLL, max(0.01, due - self._clock.now())))
            self._woken.clear()
        if self._scrub is not None:
            self._scrub.close()

    def _pay(self) -> None:
        """What is owed, to those whose time has come."""
        now = self._clock.now()
        with self._mutex:
            if now < min(self._pay_at, *self._try_at.values(), math.inf):
                return
            self._pay_at = now + POLL
        members = {member.id: member.where for member in self._repair.view()}
        for id in self._hints.owed():
            if self._over.is_set():
                return
            if id not in members:
                self._hints.drop(id)
                self._waits.pop(id, None)
            elif now >= self._try_at.get(id, now):
                self._set("paying", None)
                self._try(id, members[id])
        with self._mutex:
            for id in [id for id in self._try_at if id not in self._waits]:
                del self._try_at[id]
        self._clear("_pay")

    def _try(self, id: str, where: str) -> None:
        answers = self._repair.crowd.ask(
            [id],
            lambda id, replica: replica.stamp(),
            lambda answers: self._over.is_set(),
            min(PING, self._repair.timeout),
        )
        paid = bool(answers.got) and self._pay_all(id, where)
        with self._mutex:
            if paid or self._over.is_set():
                self._waits.pop(id, None)
                self._try_at.pop(id, None)
                return
            wait = self._waits[id] = min(self._waits.get(id, FIRST_TRY / 2) * 2, LONGEST_TRY, self._interval)
            self._try_at[id] = self._clock.now() + wait * self._chance.uniform(0.75, 1.25)

    def _pay_all(self, id: str, where: str) -> bool:
        """Whether nothing was left."""
        while debts := self._hints.take(id, _AT_ONCE):
            names = [debt.name for debt in debts if not debt.everything]
            if len(names) < len(debts):
                report = self._repair.everything({id}, rate=self._rate, cancel=self._over)
            else:
                report = self._repair.names(names, {id}, rate=self._rate, cancel=self._over)
            self._account(report)
            failed = {one.name for one in report.failed if one.replica == where}
            bad = report.cancelled or where in report.unreachable or report.left.get(where, 0) > len(failed)
            for debt in debts:
                if bad or debt.name in failed or (debt.everything and failed):
                    self._hints.unpaid(debt)
                else:
                    self._hints.paid(debt)
                    self._count(paid=1)
            if bad or failed:
                return False
        return True

    def _compare(self) -> None:
        now = self._clock.now()
        with self._mutex:
            if now < self._compare_at:
                return
            self._compare_at = now + self._interval * self._chance.uniform(0.75, 1.25)
        self._set("comparing", None)
        mine = set(self._mine())
        self._passes += 1
        targets = mine if mine and self._passes % NEIGHBOURS else None
        report = self._repair.everything(targets, rate=self._rate, cancel=self._over, progress=self._told)
        if report.cancelled:
            return
        self._account(report)
        with self._mutex:
            self._counters["comparisons"] += 1
            at = self._clock.wall()
            self._behind = {
                where: left for where, left in report.left.items() if where not in report.unreachable
            }
            self._compared |= dict.fromkeys(self._behind, at)
            self._unreachable = dict(report.unreachable)
            if not report.unreachable:
                self._compared_at = at
            if report.unreachable or report.failures:
                self._haste = min(self._interval, POLL if self._haste is None else self._haste * 2)
                soon = self._clock.now() + self._haste * self._chance.uniform(0.75, 1.25)
                self._compare_at = min(self._compare_at, soon)
            else:
                self._haste = None
        if report.ok:
            self._clear("_compare")
        else:
            self._complain("_compare", _in_words(report))

    def _scrub_some(self) -> None:
        now = self._clock.now()
        if self._scrub_every is None or now < self._scrub_at:
            return
        mine = set(self._mine())
        where = {member.id: member.where for member in self._repair.view() if not mine or member.id in mine}
        if self._scrub is None:
            self._scrub = Scrub(self._repair.crowd, where, rate=self._scrub_rate)
        self._set("scrubbing", None)
        run = self._scrub
        before = run.looked
        found, pause = run.turn(self._over)
        self._scrub_at = self._clock.now() + pause
        self._count(scrubbed=run.looked - before, damaged=len(found))
        if found:
            log.warning("damaged files were found", extra={"names": found[:10], "count": len(found)})
            self._account(
                self._repair.names(
                    found, mine or None, rate=self._rate, cancel=self._over, progress=self._told
                )
            )
        if run.over and not self._over.is_set():
            self._scrub = None
            if not run.unreachable:
                self._remember_scrub()
                self._scrub_at = self._clock.now() + self._scrub_in()
                self._clear("_scrub_some")
            else:  # once more, when they may be there again
                self._scrub_at = self._clock.now() + min(3600.0, self._scrub_every)
                words = "; ".join(said_of(place, reason) for place, reason in run.unreachable.items())
                self._complain("_scrub_some", f"not everything could be read in a scrub: {words}")

    # -- parts -------------------------------------------------------------------------------------------

    def _scrubbed_before(self) -> float | None:
        if self._state is None:
            return None
        try:
            at = (self._state / _SCRUBBED).stat().st_mtime
        except OSError:
            return None
        return at if at <= self._clock.wall() else None

    def _remember_scrub(self) -> None:
        self._scrubbed_at = self._clock.wall()
        if self._state is not None:
            with contextlib.suppress(OSError):
                self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
                file = self._state / _SCRUBBED
                file.touch()
                os.utime(file, (self._scrubbed_at, self._scrubbed_at))

    def _scrub_in(self) -> float:
        """Seconds until the next scrub begins; spread, so that not all nodes read their disks at the same time."""
        every = self._scrub_every
        if every is None:
            return math.inf
        if self._scrubbed_at is None:
            return every * self._chance.uniform(0.0, 0.1)
        past = self._clock.wall() - self._scrubbed_at
        return max(0.0, every - past) * self._chance.uniform(0.9, 1.0)

    def _account(self, report: RepairReport) -> None:
        self._count(
            repairs=report.repairs,
            bytes=report.bytes,
            failures=report.failures,
            quorum_failures=report.quorum_failures,
        )
        if report.repairs:
            words = {"repairs": report.repairs, "bytes": report.bytes, "seconds": round(report.seconds, 3)}
            log.info("replicas were repaired", extra=words)
        if report.rebuilt:
            log.info("a replica was rebuilt and counts again", extra={"replicas": list(report.rebuilt)})
            try:
                self._rebuilt()
            except LailaError as error:  # what was paid meanwhile is to be noted nevertheless
                log.warning("a rebuilt replica was not told to others", extra={"reason": str(error)})

    def _count(self, **more: int) -> None:
        with self._mutex:
            for what, number in more.items():
                self._counters[what] += number

    def _told(self, progress: Progress) -> None:
        self._set(None, progress)

    def _set(self, doing: str | None, progress: Progress | None) -> None:
        with self._mutex:
            self._doing = self._doing if doing is None else doing
            self._progress = progress

    def _complain(self, work: str, words: str) -> None:
        with self._mutex:
            new = self._troubles.get(work) != words
            self._troubles[work] = words
        if new:
            log.warning("replicas could not be brought to agree", extra={"reason": words})

    def _clear(self, work: str) -> None:
        with self._mutex:
            self._troubles.pop(work, None)

    def _later(self, work: str) -> None:
        """Not at once again, after something that nobody expected."""
        with self._mutex:
            now = self._clock.now()
            if work == "_scrub_some":
                self._scrub, self._scrub_at = None, now + self._interval
            elif work == "_compare":
                self._compare_at = max(self._compare_at, now + min(POLL, self._interval))
            else:
                self._pay_at = now + POLL


def _amount(names: list[str]) -> int | str:
    return "everything" if EVERYTHING in names else len(names)


def _in_words(report: RepairReport) -> str:
    words = [said_of(where, reason) for where, reason in report.unreachable.items()]
    words += [f"{one.name!r} on {one.replica or 'none'}: {one.reason}" for one in report.failed[:3]]
    more = report.failures - 3
    return "; ".join(words) + (f"; and {more} more" if more > 0 else "")
