"""A holder dies by SIGKILL while others wait for its lock: one of them gets it soon, with a greater token.

First a client alone is killed, once on each node; then a whole node, with everything beside it. Before it dies, the
others must be waiting, and must be told who holds the lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from laila.lab.checkers import holds
from laila.lab.checkers.holds import Hold
from laila.lab.checks import revival
from laila.lab.checks.base import Stage
from laila.lab.checks.exclusion import PLACE, ask, judge, keep
from laila.lab.clocks import Moment
from laila.lab.crew import Worker

NAME = "passed-on"
WAITING = 0.3
"""Seconds in which those who ask must not get the lock, because its holder lives."""
VICTIM, KILLER, HEIR = 9, 1, 0
"""Numbers of the workers of this step."""


@dataclass(slots=True)
class Heir:
    """Somebody who waits for the lock, and what came of it."""

    worker: Worker
    hold: Hold | None = None
    error: Exception | None = None
    thread: threading.Thread | None = None


@dataclass(slots=True)
class _Deaths:
    """All holds of this step, and how long the lock stayed with the dead."""

    found: list[Hold] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)


def killed_holders(stage: Stage) -> str:
    deaths = _Deaths()
    for node in stage.names:
        stage.tell(f"a client on {node} holds the lock and is killed")
        _one_death(stage, deaths, node, whole=False)
    whole = stage.random.choice(stage.names)
    stage.tell(f"{whole} as a whole is killed while a client on it holds the lock")
    _one_death(stage, deaths, whole, whole=True)
    healed = revival.revive(stage, whole)
    found = keep(stage, deaths.found)
    judge(stage, found, holds.judge_holders(found))
    stage.facts["passed_on"] = {"deaths": len(deaths.waited), "slowest": max(deaths.waited), "healed": healed}
    return (
        f"{len(stage.names)} clients and the whole of {whole} killed while they held it: the next one had the lock "
        f"after at most {max(deaths.waited):.2f} s (allowed {stage.effort.pass_within:g}), each with a greater token; "
        f"{whole} was back after {healed:.1f} s"
    )


def _one_death(stage: Stage, deaths: _Deaths, node: str, *, whole: bool) -> None:
    victim = stage.crew.of(node, VICTIM)
    taken = ask(stage, victim, "take", locks=PLACE, name=NAME)
    heirs = [Heir(stage.crew.of(other, HEIR)) for other in stage.names if other != node]
    for heir in heirs:
        _tells_holder(stage, heir.worker, node, taken["token"])
    _begin_waiting(stage, heirs)
    time.sleep(WAITING)
    if early := [heir.worker.name for heir in heirs if heir.hold is not None]:
        stage.fail(f"{victim.name} holds the lock, and yet {', '.join(early)} got it")
    asked, got = victim.moment(taken["asked"]), victim.moment(taken["got"])
    died = _kill(stage, victim, whole=whole)
    deaths.found.append(Hold(victim.name, node, taken["token"], asked, got, died, killed=True))
    _all_inherit(stage, deaths, heirs, victim.name, died)


def _tells_holder(stage: Stage, worker: Worker, node: str, token: int) -> None:
    told = ask(stage, worker, "holder", locks=PLACE, name=NAME)["holder"]
    if told is None or (told["node"], told["token"]) != (node, token):
        said = told["text"] if told else "nobody"
        stage.fail(f"{worker.name} is told that {said} holds the lock, not {node} with token {token}")


def _begin_waiting(stage: Stage, heirs: Sequence[Heir]) -> None:
    wait = WAITING + stage.effort.pass_within * len(heirs) + 2

    def take(heir: Heir) -> None:
        try:
            words = {"locks": PLACE, "name": NAME, "wait": wait}
            taken = ask(stage, heir.worker, "take", timeout=wait + 2, **words)
            gave = ask(stage, heir.worker, "give", name=NAME)
            asked, got, gone = (heir.worker.moment(t) for t in (taken["asked"], taken["got"], gave["gave"]))
            who, node = heir.worker.name, heir.worker.node
            heir.hold = Hold(who, node, taken["token"], asked, got, gone, loss=gave["loss"])
        except Exception as error:  # told by the thread that waits for this one
            heir.error = error

    for heir in heirs:
        heir.thread = threading.Thread(
            target=take, args=(heir,), name=f"heir {heir.worker.name}", daemon=True
        )
        heir.thread.start()


def _kill(stage: Stage, victim: Worker, *, whole: bool) -> Moment:
    if whole:
        return revival.kill(stage, victim.node, "while a client on it held a lock")
    killer = stage.crew.of(victim.node, KILLER)
    before, after = ask(stage, killer, "kill", pid=victim.pid)["killed"]
    died = Moment(killer.moment(before).earliest, killer.moment(after).latest)
    stage.crew.dismiss(victim)
    stage.history.event(
        "holder-killed", f"{victim.name} killed while it held a lock", node=victim.node, at=died.earliest
    )
    return died


def _all_inherit(stage: Stage, deaths: _Deaths, heirs: Sequence[Heir], victim: str, died: Moment) -> None:
    """Each of those who waited gets it, the first within the bound."""
    allowed = stage.effort.pass_within
    for heir in heirs:
        if heir.thread is not None:
            heir.thread.join(WAITING + allowed * len(heirs) + stage.effort.op_timeout)
        if heir.error is not None:
            raise heir.error
        if heir.hold is None:
            stage.fail(f"{heir.worker.name} did not get the lock of {victim}, which is dead")
    inherited = [heir.hold for heir in heirs if heir.hold is not None]
    first = min(hold.got.earliest for hold in inherited) - died.latest
    if first > allowed:
        stage.fail(f"the lock of {victim} was had {first:.2f} s after its death; {allowed:g} are allowed")
    deaths.waited.append(max(0.0, min(hold.got.latest for hold in inherited) - died.earliest))
    deaths.found += inherited
