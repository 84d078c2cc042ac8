"""Clients on every node register agents and publish their results, all at once: none is lost, on no node.

Every client lists when it is done with its own, while others still register; and in the end every node lists.
Whatever was acknowledged before a listing began must be in it; judged by `laila.lab.checkers.members`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laila.errors import LabError
from laila.lab.checkers import fault, members
from laila.lab.checkers.fault import in_order
from laila.lab.checkers.members import Addition, Listing
from laila.lab.checks.base import Stage
from laila.lab.checks.exclusion import ask, crew_of
from laila.lab.crew import Worker

PLACE = "lab-check/agents"
KINDS = ("agents", "results")

Told = list[tuple[Worker, dict[str, Any], list[Listing]]]


def none_is_lost(stage: Stage) -> str:
    stage.need_safe()
    workers = crew_of(stage, stage.effort.lock_clients)
    stage.tell(f"{len(workers)} clients register {stage.effort.registrations} agents each, all at once")
    # One comes first and makes the directories: of those that make one at once, GlusterFS fails some (EIO).
    told = [_register(stage, workers[0], "first", 1)]
    told += stage.each(lambda worker: _register(stage, worker, "agent", stage.effort.registrations), workers)
    _no_errors(stage, told)
    faults, counts = [], {}
    for which, kind in enumerate(KINDS):
        additions = [_addition(worker, item, which) for worker, done, _ in told for item in done["done"]]
        listings = [found[which] for _, _, found in told] + [_list(stage, worker, kind) for worker in workers]
        _keep(stage, kind, additions, listings)
        faults += members.judge(additions, listings)
        counts[kind] = len(additions)
    _judge(stage, counts["agents"], in_order(faults))
    least = len(workers) * stage.effort.registrations
    if counts["agents"] < least or not least:
        raise LabError(f"only {counts['agents']} of {least} registrations were made: too few to say anything")
    stage.facts["registrations"] = {"acknowledged": counts["agents"], "clients": len(workers), "lost": 0}
    return (
        f"{len(workers)} clients on {len(stage.names)} nodes registered {counts['agents']} agents at once and "
        f"published {counts['results']} results: every node lists all of them, and nothing else"
    )


def _register(
    stage: Stage, worker: Worker, who: str, count: int
) -> tuple[Worker, dict[str, Any], list[Listing]]:
    words = {"agents": PLACE, "prefix": f"{who}-{worker.name.replace('/', '-')}", "count": count}
    limit = stage.effort.file_timeout
    done = ask(stage, worker, "register_some", timeout=limit, **words)
    return worker, done, [_list(stage, worker, kind) for kind in KINDS]


def _list(stage: Stage, worker: Worker, kind: str) -> Listing:
    words = {"agents": PLACE, "what": kind}
    outcome = stage.crew.op(worker, "list_all", timeout=stage.effort.file_timeout, phase=stage.step, **words)
    if not outcome.ok:
        stage.fail(f"{worker.name} cannot list the {kind}: {outcome}")
    return Listing(worker.name, worker.node, tuple(outcome.result["members"]), *worker.span(outcome))


def _addition(worker: Worker, told: Sequence[Any], which: int) -> Addition:
    name, began, *ended = told
    return Addition(worker.name, worker.node, name, worker.moment(began), worker.moment(ended[which]))


def _no_errors(stage: Stage, told: Told) -> None:
    wrong = [
        f"{error['agent']} by {worker.name}: {error['code']}: {error['message']}"
        for worker, done, _ in told
        for error in done["errors"]
    ]
    if wrong:
        stage.fail(f"{len(wrong)} registrations failed without a reason", wrong)


def _keep(stage: Stage, kind: str, additions: Sequence[Addition], listings: Sequence[Listing]) -> None:
    began, phase = stage.history.began, f"{stage.step} of {kind}"
    for addition in additions:
        stage.history.keep("addition", addition.to_record(began), phase=phase)
    for listing in listings:
        stage.history.keep("listing", listing.to_record(began), phase=phase)


def _judge(stage: Stage, acknowledged: int, faults: Sequence[fault.Fault]) -> None:
    if not faults:
        return
    first = faults[0]
    lost = len({found.text.split()[0] for found in faults if found.kind == members.MISSING})
    stage.history.event("bad", str(first), node=first.node, at=first.at)
    stage.facts["registrations"] = {"acknowledged": acknowledged, "lost": lost}
    stage.fail(
        f"{lost} of {acknowledged} acknowledged registrations or their results are missing",
        fault.lines(faults),
    )
