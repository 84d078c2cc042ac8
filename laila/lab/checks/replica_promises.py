"""What was promised: every acknowledged version is on every node, or a newer one; what was forgotten stays so."""

from __future__ import annotations

from laila.errors import LabError
from laila.lab.checks.base import Stage
from laila.lab.checks.exclusion import ask
from laila.lab.checks.registers import FACT
from laila.lab.checks.replica_holdings import Holdings, eye, look
from laila.lab.checks.replica_load import ReplicaLoad

_SHOWN = 8
_ASKED = 5
"""Forgotten names that are loaded through every node; all are looked for in the files and the lists."""


def everything_is_there(stage: Stage) -> str:
    load: ReplicaLoad | None = stage.facts.get(FACT)
    if load is None or "registers" not in stage.facts:
        raise LabError("nothing was written to the replicas, so there is nothing to look for")
    known = load.acknowledged()
    forgotten = sorted(one.name for one in load.forgotten if one.sure)
    if not known or not forgotten:
        raise LabError(
            f"{len(known)} names were saved and {len(forgotten)} forgotten: too few to say anything"
        )
    found = look(stage)
    wrong = missing(known, found) + risen(forgotten, found) + _risen_through_the_store(stage, forgotten)
    saved = sum(done.op == "replica_save" and done.ok for done in load.done)
    stage.facts["replica_promises"] = {
        "saved": saved,
        "names": len(known),
        "forgotten": len(forgotten),
        "wrong": len(wrong),
    }
    if wrong:
        stage.history.event("bad", wrong[0])
        stage.fail(f"{len(wrong)} promises of the replicated store were broken", wrong[:_SHOWN])
    return (
        f"the newest of {saved} acknowledged versions of {len(known)} names, or a newer one, is on each of "
        f"{len(found)} nodes, and none of {len(forgotten)} forgotten names is back"
    )


def missing(known: dict[str, tuple[int, str]], found: list[Holdings]) -> list[str]:
    """Acknowledged versions that a node does not have."""
    lines = []
    for name, (sequence, value) in sorted(known.items()):
        for one in found:
            _, number, said = one.live.get(name, ("", 0, "nothing"))
            if number < sequence:
                lines.append(
                    f"{one.node} has {f'version {number}' if number else said} of {name}, and version {sequence} "
                    f"({value}) was acknowledged"
                )
    return lines


def risen(forgotten: list[str], found: list[Holdings]) -> list[str]:
    """Forgotten names that a node has as if they had never been forgotten."""
    lines = []
    for one in found:
        for name in forgotten:
            if name in one.live and one.live[name][1] > one.gone.get(name, ("", 0, None))[1]:
                lines.append(f"{one.node} has {name}, which was forgotten")
    return lines


def _risen_through_the_store(stage: Stage, forgotten: list[str]) -> list[str]:
    gone = set(forgotten)

    def work(node: str) -> list[str]:
        worker = eye(stage, node)
        listed = sorted(gone & set(ask(stage, worker, "replica_names")["names"]))
        lines = [f"the store lists {name} through {node}, though it was forgotten" for name in listed]
        for name in forgotten[:: max(1, len(forgotten) // _ASKED)][:_ASKED]:
            if (value := ask(stage, worker, "replica_load", name=name)["value"]) is not None:
                lines.append(f"a load of {name} through {node} gave {value}, though it was forgotten")
        return lines

    return [line for lines in stage.each(work, stage.names) for line in lines]
