"""A replicated store answers as one store in one place would, while its nodes are killed, paused and cut off.

Writers and readers work on the same few names through every node; one fault after another strikes one node each.
Then every name's history is judged by `laila.lab.checkers.registers`. A run in which too little went through before,
during or after a fault has shown nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from laila.errors import LabError
from laila.lab.checkers import registers
from laila.lab.checkers.registers import Explanation, Judgement, Verdict
from laila.lab.checks.base import CannotHere, CheckFailed, Stage
from laila.lab.checks.replica_faults import Bite, bite, faults
from laila.lab.checks.replica_load import NAMES, UNKNOWN_OUTCOME, Done, ReplicaLoad, keep, records
from laila.lab.topology import STORE

LEAST_NODES = 3
FACT = "replica load"
"""Where later steps find the load."""


def answers_are_linearizable(stage: Stage) -> str:
    _require_replicas(stage)
    load = ReplicaLoad(stage)
    stage.facts[FACT] = load
    stage.tell(f"{len(stage.names) * stage.effort.replica_workers} workers open the replicated store")
    load.start()
    bites: list[Bite] = []
    problem: LabError | CheckFailed | None = None
    try:
        time.sleep(stage.effort.replica_for)
        _need(stage, load, "before")
        victims = stage.random.sample(stage.names, len(stage.names))
        for turn, fault in enumerate(faults(stage)):
            bites.append(bite(stage, load, fault, victims[turn % len(victims)]))
        load.phase = "after"
        stage.tell("all nodes are back; working on")
        time.sleep(stage.effort.replica_for)
    except (LabError, CheckFailed) as error:
        problem = error  # what was seen until then is judged all the same
    finally:
        load.stop()
    stage.facts["replica_work_ended"] = time.monotonic() - stage.history.began
    stage.facts["bites"] = [_told(stage, one) for one in bites]
    judgements = _judge(stage, load)
    if problem is not None:
        raise problem
    _decided(judgements)
    _no_surprise(stage, load, bites)
    for phase in ("before", *(one.what for one in bites), "after"):
        _need(stage, load, phase)
    return _said(stage, load, bites)


def _require_replicas(stage: Stage) -> None:
    if len(stage.names) < LEAST_NODES:
        raise CannotHere(f"of {len(stage.names)} replicas none may fail; {LEAST_NODES} nodes are needed")
    if without := [name for name in stage.names if stage.topology.node(name).replica(STORE) is None]:
        raise CannotHere(f"{', '.join(without)} serves no replica named {STORE!r}")


def _need(stage: Stage, load: ReplicaLoad, phase: str) -> None:
    """Raises LabError when too little went through in a phase; waits a moment for it first."""
    end = time.monotonic() + stage.effort.op_timeout
    while (
        load.count(phase) < stage.effort.least_replica_ops and load.phase == phase and time.monotonic() < end
    ):
        time.sleep(0.05)
    if (count := load.count(phase)) < stage.effort.least_replica_ops:
        errors = ", ".join(f"{n} times {error}" for error, n in load.errors(phase).most_common(3))
        raise LabError(
            f"only {count} operations on the replicated store went through {phase!r}, and "
            f"{stage.effort.least_replica_ops} are needed to say anything{': ' + errors if errors else ''}"
        )


def _judge(stage: Stage, load: ReplicaLoad) -> list[Judgement]:
    """Keep everything in the history and judge it; fails when a name's history is illegal."""
    judgements = registers.judge_all(*keep(stage, *records(load)))
    counts = Counter(done.phase for done in load.done if done.ok)
    illegal = [one for one in judgements if one.verdict is Verdict.ILLEGAL]
    stage.facts["registers"] = {
        "names": len(judgements),
        "writes": sum(one.writes for one in judgements),
        "reads": sum(one.reads for one in judgements),
        "open": sum(done.op == "replica_save" and not done.ok for done in load.done if done.name in NAMES),
        "phases": dict(counts),
        "illegal": len(illegal),
        "why": [_shown(one.why) for one in illegal if one.why is not None],
    }
    if illegal:
        _fail(stage, illegal)
    return judgements


def _decided(judgements: list[Judgement]) -> None:
    """Raises LabError unless every name was judged."""
    if unknown := [one for one in judgements if one.verdict is Verdict.UNKNOWN]:
        raise LabError(f"the history of {unknown[0].name} cannot be judged: {unknown[0].reason}")
    if len(judgements) < len(NAMES):
        raise LabError(f"only {len(judgements)} of {len(NAMES)} names were worked on")


def _fail(stage: Stage, illegal: list[Judgement]) -> None:
    whys = sorted(
        (one for one in illegal if one.why), key=lambda one: one.why.offender.end if one.why else 0.0
    )
    first = whys[0].why
    if first is not None:
        at = stage.history.began + first.offender.end
        stage.history.event("bad", f"{whys[0].name}: {first.fault}", node=first.offender.node, at=at)
    stage.fail(
        f"{sum(one.faults for one in illegal)} answers on {len(illegal)} names cannot come from one store, first "
        f"{first.kind if first else ''}",
        [f"{one.name}: {one.why.fault}" for one in whys if one.why],
    )


def _no_surprise(stage: Stage, load: ReplicaLoad, bites: list[Bite]) -> None:
    """Operations fail only for want of a quorum; nobody answers alone."""
    wrong = [line for done in load.done if (line := _wrong(done, bites))]
    if wrong:
        stage.fail(
            f"{len(wrong)} of {len(load.done)} operations on the replicated store ended as they must not",
            wrong[:8],
        )
    if load.surprises:
        raise LabError(f"{len(load.surprises)} times a worker could not go on: {load.surprises[0]}")


def _wrong(done: Done, bites: list[Bite]) -> str:
    outcome = done.outcome
    if done.ok:
        alone = [
            one
            for one in bites
            if one.what == "cut off"
            and done.node == one.node
            and outcome.started > one.injected
            and outcome.ended < one.healing
        ]
        return f"{done}, though its node was cut off from all others" if alone else ""
    if outcome.error == "NoAnswer":
        return f"{done}: a hang"
    if outcome.error not in UNKNOWN_OUTCOME:
        return str(done)
    return ""


def _told(stage: Stage, one: Bite) -> dict[str, Any]:
    """For the report; seconds since the run began."""
    began = stage.history.began
    times = {"from": one.injecting - began, "to": one.healing - began, "healed": one.healed - began}
    return {
        "what": one.what,
        "node": one.node,
        "proof": one.proof,
        **{key: round(t, 4) for key, t in times.items()},
    }


def _shown(why: Explanation) -> dict[str, Any]:
    """An explanation as the report draws it."""
    rows = [
        {
            "client": one.client,
            "node": one.node,
            "what": "write" if isinstance(one, registers.Write) else "read",
            "value": "nothing" if one.value is None else registers.short(one.value),
            "from": one.start,
            "to": None if isinstance(one, registers.Write) and one.ended is None else one.end,
            "offender": one is why.offender,
        }
        for one in why.operations
    ]
    return {"name": why.offender.name, "kind": why.kind, "text": why.text, "rows": rows}


def _said(stage: Stage, load: ReplicaLoad, bites: list[Bite]) -> str:
    found = stage.facts["registers"]
    done = ", ".join(f"{one.node} {one.what} {one.healing - one.injecting:.1f} s" for one in bites)
    refused = sum(not one.ok for one in load.done)
    skipped = "" if stage.driver.capabilities.cut else "; nobody was cut off, which this driver cannot do"
    return (
        f"{found['writes']} writes and {found['reads']} reads of {found['names']} names through {len(stage.names)} "
        f"nodes are linearizable; {done}; {refused} operations were refused or cut short, {found['open']} of them "
        f"writes whose outcome nobody knows{skipped}"
    )
