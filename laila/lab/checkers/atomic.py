"""Registers that many write and read at once, judged from their operations: exact, by zones, each key by itself.

`write` has in `value` what nobody else ever writes, `read` in `result` what was found; None is that nothing is there
yet. A write of which nobody knows the outcome may take effect at any later time, or never. One that was refused never
takes effect: its value must not be read. Reads that failed say nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from laila.lab.checkers import zones
from laila.lab.checkers.operations import FAIL, OK, Op, short
from laila.lab.checkers.verdict import Explanation, Judgement, Verdict, nothing
from laila.lab.checkers.zones import PHANTOM, Columns, Contradiction

CHECK = "linearizable register"
READ, WRITE = "read", "write"
REFUSED = "a value whose write was refused"


def judge_all(ops: Iterable[Op]) -> list[Judgement]:
    """Every key, sorted; operations other than reads and writes are left out."""
    return [judge(of_key, key) for key, of_key in sorted(by_key(ops, (READ, WRITE)).items())] or [
        nothing(CHECK)
    ]


def by_key(ops: Iterable[Op], known: Sequence[str]) -> dict[str, list[Op]]:
    """The operations of these kinds, in their order."""
    found: dict[str, list[Op]] = {}
    for op in ops:
        if op.op in known:
            of_key = found.get(op.key)
            if of_key is None:
                found[op.key] = [op]
            else:
                of_key.append(op)
    return found


def judge(ops: Sequence[Op], key: str) -> Judgement:
    """The history of one register. It shows something when a value that was acknowledged could be read later."""
    made, refused, seen = _sorted(ops)
    wrote, read = _columns(made, seen)
    operations = [*made, *seen]

    def say(number: int) -> str:
        return said(operations[number])

    if reason := zones.undecidable(wrote, read, say):
        return Judgement(CHECK, key, Verdict.UNKNOWN, len(operations), reason=reason)
    faults, found = zones.contradictions(wrote, read)
    if found is not None:
        why = _explained(found, operations, refused, say)
        return Judgement(CHECK, key, Verdict.ILLEGAL, len(operations), why, faults)
    if reason := _vacuous(made, seen):
        return Judgement(CHECK, key, Verdict.UNKNOWN, len(operations), reason=reason)
    return Judgement(CHECK, key, Verdict.OK, len(operations))


def said(op: Op) -> str:
    """A read or a write as explanations name it."""
    done = op.end < math.inf
    when = f"({op.start:.4f} to {op.end:.4f} s)" if done else f"(from {op.start:.4f} s, no answer)"
    if op.op == WRITE:
        refused = ", refused" if op.outcome == FAIL else ""
        return f"the write of {short(op.value)} by {op.client} {when}{refused}"
    found = "found nothing" if op.result is None else f"gave {short(op.result)}"
    return f"the read by {op.client} that {found} {when}"


def plain(value: Any) -> Hashable:
    """A JSON value as something that is equal to itself only: 1 is neither true nor 1.0."""
    if value is None or type(value) is str or type(value) is int:
        return value
    return (type(value).__name__, json.dumps(value, sort_keys=True))


def _sorted(ops: Sequence[Op]) -> tuple[list[Op], list[Op], list[Op]]:
    """Writes that were or may have been done, writes that were refused, and reads that were answered."""
    made, refused, seen = [], [], []
    for op in ops:
        if op.op == READ:
            if op.outcome == OK:
                seen.append(op)
        elif op.outcome == FAIL:
            refused.append(op)
        else:
            made.append(op)
    return made, refused, seen


def _columns(made: Sequence[Op], seen: Sequence[Op]) -> tuple[Columns, Columns]:
    wrote = Columns(
        [value if type(value := op.value) is str else plain(value) for op in made],
        [op.start for op in made],
        [op.end if op.outcome == OK else math.inf for op in made],
    )
    got = [value if type(value := op.result) is str else plain(value) for op in seen]
    return wrote, Columns(got, [op.start for op in seen], [op.end for op in seen])


def _explained(
    found: Contradiction, operations: Sequence[Op], refused: Sequence[Op], say: zones.Say
) -> Explanation:
    offender = operations[found.offender]
    chosen = [operations[number] for number in found.numbers]
    kind, text = found.kind, found.text(say)
    if found.kind == PHANTOM:
        value = plain(offender.result)
        if (write := next((op for op in refused if plain(op.value) == value), None)) is not None:
            kind, chosen = REFUSED, [write, offender]
            text = f"{said(offender)}, though {said(write)}" + (f" ({write.error})" if write.error else "")
    return Explanation(kind, text, tuple(sorted(chosen, key=lambda op: (op.start, op.end))), offender)


def _vacuous(made: Sequence[Op], seen: Sequence[Op]) -> str:
    """Why a right history shows nothing."""
    first = min((op.end for op in made if op.outcome == OK), default=math.inf)
    if first == math.inf:
        return "no write was acknowledged, so nothing could have been lost"
    if not any(op.start > first for op in seen):
        return "nothing was read after an acknowledged write, so nothing is known of it"
    return ""
