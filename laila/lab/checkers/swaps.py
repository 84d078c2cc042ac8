"""Registers that can also compare and set, judged by search: each key by itself.

`read` gives what it found in `result`; `write` has its value in `value`; `cas` has [old, new] in `value` and in
`result` whether it swapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from laila.lab.checkers.atomic import by_key
from laila.lab.checkers.operations import OK, Op
from laila.lab.checkers.swap_model import call_of, decide
from laila.lab.checkers.swap_reasons import explained
from laila.lab.checkers.verdict import Judgement, Verdict, nothing
from laila.lab.checkers.wing_gong import USUAL, Bounds

CHECK = "linearizable compare-and-set"
OPS = ("read", "write", "cas")


def judge_all(ops: Iterable[Op], bounds: Bounds = USUAL) -> list[Judgement]:
    """Every key, sorted. The bounds are for each."""
    return [judge(of_key, key, bounds) for key, of_key in sorted(by_key(ops, OPS).items())] or [
        nothing(CHECK)
    ]


def judge(ops: Sequence[Op], key: str, bounds: Bounds = USUAL) -> Judgement:
    """The history of one register, which holds None in the beginning."""
    calls = [call for op in ops if (call := call_of(op)) is not None]
    count = sum(not call.open for call in calls)
    for call in calls:
        if not call.start <= call.end:
            reason = f"{call.op} ended before it began: the clocks say nothing"
            return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=reason)
    found = decide(calls, bounds)
    if found.verdict is Verdict.UNKNOWN:
        return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=found.reason)
    if found.blocked is not None:
        return Judgement(CHECK, key, Verdict.ILLEGAL, count, explained(calls, found.blocked, ops), 1)
    if reason := _vacuous(ops):
        return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=reason)
    return Judgement(CHECK, key, Verdict.OK, count)


def _vacuous(ops: Sequence[Op]) -> str:
    """Why a right history shows nothing."""
    done = [op for op in ops if op.outcome == OK]
    changes = [op for op in done if op.op == "write" or (op.op == "cas" and op.result is True)]
    if not any(op.op == "cas" and op.result is True for op in changes):
        return "no swap went through, so nothing is known of them"
    first = min(op.end for op in changes)
    if not any(op.start > first and op.op != "write" for op in done):
        return "nothing was asked after an acknowledged change, so nothing is known of it"
    return ""
