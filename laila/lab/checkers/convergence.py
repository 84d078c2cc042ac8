"""After everything is healed, all nodes come to hold the same, within a stated time.

`digest` has in `result` a digest of each name that the node itself holds. It is asked of every node again and again
once nothing is written any more; the first question is where the time begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from laila.lab.checkers.operations import OK, Op
from laila.lab.checkers.verdict import Explanation, Judgement, Verdict

CHECK = "convergence"
DIFFERENT = "nodes that do not become equal"
LATE = "nodes that became equal too late"
TOLD = 3
"""So many names are told."""


def judge(ops: Iterable[Op], within: float, name: str = "all names") -> Judgement:
    """`within` is in seconds. All nodes on which `digest` was asked must answer."""
    asked = [op for op in ops if op.op == "digest"]
    answers = sorted((op for op in asked if op.outcome == OK), key=lambda op: op.start)
    nodes = sorted({op.node for op in asked})

    def unknown(reason: str) -> Judgement:
        return Judgement(CHECK, name, Verdict.UNKNOWN, len(answers), reason=reason)

    if len(nodes) < 2:
        return unknown(f"{len(nodes)} nodes were asked for digests, and it takes two to be equal")
    last = {op.node: op for op in answers}
    if silent := [node for node in nodes if node not in last]:
        return unknown(f"{', '.join(silent)} never told its digests")
    if not any(op.result for op in last.values()):
        return unknown("no node holds anything, so that they are equal says nothing")
    began = min(op.start for op in asked)
    if (pair := _different(last.values())) is not None:
        if (early := min(op.start for op in last.values()) - began) < within:
            return unknown(
                f"the nodes differ, but were asked for {early:.1f} s only, and have {within:g} s: {_said(*pair)}"
            )
        return _illegal(DIFFERENT, f"{within:g} s after all was healed: {_said(*pair)}", pair, answers, name)
    late = _last_difference(answers, last)
    if late is not None and late[1].start - began > within:
        text = f"after {within:g} s, by which all were to be equal, they differed still: {_said(*late)}"
        return _illegal(LATE, text, late, answers, name)
    return Judgement(CHECK, name, Verdict.OK, len(answers))


def seconds(ops: Iterable[Op]) -> float | None:
    """How long it took at most until all nodes were equal and stayed so; None when they never were."""
    asked = [op for op in ops if op.op == "digest"]
    answers = sorted((op for op in asked if op.outcome == OK), key=lambda op: op.start)
    last = {op.node: op for op in answers}
    if not last or _different(last.values()) is not None:
        return None
    equal = []
    for node, final in last.items():
        own = [op for op in answers if op.node == node]
        turn = max((n for n, op in enumerate(own, 1) if op.result != final.result), default=0)
        equal.append(own[turn].end)
    return max(equal) - min(op.start for op in asked)


def _last_difference(answers: Sequence[Op], last: Mapping[str, Op]) -> tuple[Op, Op] | None:
    """The last answer that was not yet what all hold in the end, beside one that is."""
    final = next(iter(last.values()))
    other = [op for op in answers if op.result != final.result]
    return (final, other[-1]) if other else None


def _different(ops: Iterable[Op]) -> tuple[Op, Op] | None:
    first: Op | None = None
    for op in ops:
        if first is None:
            first = op
        elif op.result != first.result:
            return first, op
    return None


def _said(one: Op, other: Op) -> str:
    names = sorted(
        key for key in one.result.keys() | other.result.keys() if one.result.get(key) != other.result.get(key)
    )
    told = [
        f"{key} is {_short(one, key)} on {one.node} and {_short(other, key)} on {other.node}"
        for key in names[:TOLD]
    ]
    more = f"; {len(names) - TOLD} more names" if len(names) > TOLD else ""
    return "; ".join(told) + more


def _short(op: Op, key: str) -> str:
    return op.result[key][:8] if key in op.result else "nothing"


def _illegal(kind: str, text: str, pair: tuple[Op, Op], answers: Sequence[Op], name: str) -> Judgement:
    operations = tuple(sorted(pair, key=lambda op: (op.start, op.end)))
    why = Explanation(kind, text, operations, operations[-1])
    return Judgement(CHECK, name, Verdict.ILLEGAL, len(answers), why, 1)
