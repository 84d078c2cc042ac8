"""One holder at a time: clients on every node contend for one lock, and tell when they held it and with which token.

Each holder counts up a register that nothing protects but the lock. Judged by `laila.lab.checkers.holds`: holds never
overlap, tokens rise, and every holder finds what the one before it wrote. A run in which nobody had to wait for
another node has shown nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laila.errors import LabError
from laila.lab.checkers import fault, holds
from laila.lab.checkers.fault import Fault
from laila.lab.checkers.holds import Hold, Seen
from laila.lab.checks.base import Stage
from laila.lab.crew import Worker

PLACE = "lab-check/locks"
"""Where on the volume the lock files of this check are."""
NAME = "contended"
REGISTER = "lab-check/register"
HELD = (0.0002, 0.005)
PAUSE = (0.0, 0.002)
"""Seconds between two holds of one client: little, so that it meets the others."""
SHARED = 0.2
ROUNDS = 5


def one_holder_at_a_time(stage: Stage) -> str:
    workers = crew_of(stage, stage.effort.lock_clients)
    ask(stage, workers[0], "register", register=REGISTER, write=[0, 0])
    ask(stage, workers[0], "holder", locks=PLACE, name=NAME)  # makes the directory, which others only open
    found: list[Hold] = []
    for _ in range(ROUNDS):
        stage.tell(f"{len(workers)} clients contend for one lock ({len(found)} holds so far)")
        found += _contend(stage, workers)
        if not (missing := _missing(stage, found)):
            break
    found = keep(stage, found)
    judge(stage, found, holds.judge(found))
    _count_is_right(stage, workers, found)
    if missing:
        raise LabError(f"too little was seen to say anything: {', '.join(missing)}")
    return _said(stage, found, len(workers))


def crew_of(stage: Stage, each: int) -> list[Worker]:
    """So many workers on every node, all running."""
    places = [(node, number) for node in stage.names for number in range(each)]
    return list(stage.each(lambda place: stage.crew.of(*place), places))


def ask(stage: Stage, worker: Worker, op: str, *, timeout: float = 0.0, **words: Any) -> dict[str, Any]:
    """The result of an operation that a worker has no excuse to fail."""
    timeout = timeout or stage.effort.op_timeout
    outcome = stage.crew.op(worker, op, timeout=timeout, phase=stage.step, **words)
    if not outcome.ok:
        stage.fail(f"{op} by {worker.name} failed: {outcome}")
    return outcome.result


def keep(stage: Stage, found: Sequence[Hold]) -> list[Hold]:
    """The same as the history has them, so that exactly what is kept is judged: in seconds since the run began."""
    kept = []
    for hold in found:
        record = hold.to_record(stage.history.began)
        stage.history.keep("hold", record, phase=stage.step)
        kept.append(Hold.from_record(record))
    return kept


def judge(stage: Stage, found: Sequence[Hold], faults: Sequence[Fault]) -> None:
    """Fail with what the judge found, the first of it marked in the report."""
    if not faults:
        return
    first = faults[0]
    stage.history.event("bad", str(first), node=first.node, at=stage.history.began + first.at)
    stage.facts["lock_faults"] = len(faults)
    stage.fail(
        f"{len(faults)} faults in {len(found)} holds, first {first.kind}", fault.lines(faults, shown=3)
    )


def _contend(stage: Stage, workers: Sequence[Worker]) -> list[Hold]:
    effort = stage.effort
    seeds = {worker.name: stage.random.randrange(1 << 30) for worker in workers}
    words: dict[str, Any] = {"locks": PLACE, "name": NAME, "register": REGISTER, "held": HELD, "pause": PAUSE}
    words |= {"shared": SHARED, "seconds": effort.lock_for, "wait": effort.pass_within}

    def work(worker: Worker) -> list[Hold]:
        limit = effort.lock_for + effort.pass_within + effort.op_timeout
        told = ask(stage, worker, "contend", timeout=limit, seed=seeds[worker.name], **words)
        return [_hold(worker, item) for item in told["holds"]]

    return [hold for found in stage.each(work, workers) for hold in found]


def _hold(worker: Worker, told: Sequence[Any]) -> Hold:
    shared, token, asked, got, gave, found, left, wrote, _ = told
    return Hold(
        worker.name,
        worker.node,
        token,
        worker.moment(asked),
        worker.moment(got),
        worker.moment(gave),
        shared=shared,
        found=Seen(*found) if found else None,
        left=Seen(*left) if left else None,
        wrote=wrote,
        loss=told[-1],
    )


def _missing(stage: Stage, found: Sequence[Hold]) -> list[str]:
    """What a verdict still lacks."""
    held, waited = holds.acquisitions(found), holds.contended(found)
    least, contended = stage.effort.least_holds, stage.effort.least_contended
    lacking = [f"{node} held it {held[node]} times of {least}" for node in stage.names if held[node] < least]
    return lacking + [
        f"{node} waited for another node {waited[node]} times of {contended}"
        for node in stage.names
        if waited[node] < contended
    ]


def _count_is_right(stage: Stage, workers: Sequence[Worker], found: Sequence[Hold]) -> None:
    """Every node reads the number that the last holder wrote."""
    expected = [holds.last_number(found), max((hold.token for hold in found if not hold.shared), default=0)]
    wrong = []
    for worker in workers:
        if (seen := ask(stage, worker, "register", register=REGISTER)["register"]) != expected:
            wrong.append(f"{worker.name} reads {seen} instead of {expected}")
    if wrong:
        stage.fail("the nodes do not agree on what the last holder wrote", wrong)


def _said(stage: Stage, found: Sequence[Hold], clients: int) -> str:
    shared = sum(hold.shared for hold in found)
    waited = sum(holds.contended(found).values())
    tokens = [hold.token for hold in found if not hold.shared]
    clocks = (
        "one clock"
        if all(clock.shared for clock in stage.crew.clocks())
        else "the controller's clock, with bounds"
    )
    stage.facts["locks"] = {
        "exclusive": len(tokens),
        "shared": shared,
        "waited": waited,
        "clients": clients,
        "clocks": [clock.words for clock in stage.crew.clocks()],
    }
    return (
        f"{len(tokens)} exclusive and {shared} shared holds by {clients} clients, {waited} of them after waiting for "
        f"another node: none overlap by {clocks}, tokens rise with every one, the register counts to "
        f"{holds.last_number(found)}"
    )
