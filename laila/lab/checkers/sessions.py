"""What one client may rely on, whatever others see: it never reads backwards, and it reads what it wrote.

Each key has one writer, who writes greater and greater whole numbers. A write of which nobody knows may come at any
later time, and cover greater numbers: having read its number is no fault of the reader.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Sequence

from laila.lab.checkers.atomic import REFUSED, by_key, said
from laila.lab.checkers.operations import FAIL, OK, Op
from laila.lab.checkers.verdict import Explanation, Judgement, Verdict, nothing
from laila.lab.checkers.zones import PHANTOM

CHECK = "session guarantees"
BACKWARDS = "a client read an older value than before"
OWN = "a client did not read what it had written"
NO_NUMBER = "a value that is no number of the writer"
NOTHING = 0
"""What a read that found nothing counts as."""


def judge_all(ops: Iterable[Op]) -> list[Judgement]:
    """Every key, sorted."""
    return [judge(of_key, key) for key, of_key in sorted(by_key(ops, ("read", "write")).items())] or [
        nothing(CHECK)
    ]


def judge(ops: Sequence[Op], key: str) -> Judgement:
    """One key, all clients."""
    written = sorted((op for op in ops if op.op == "write"), key=lambda op: op.start)
    reads = [op for op in ops if op.op == "read" and op.outcome == OK]
    numbers = [op.value for op in written]
    count = len(numbers) + len(reads)
    if not all(map(_is_number, numbers)) or any(map(operator.ge, numbers, numbers[1:])):
        reason = "the writer did not write greater and greater numbers, so their order is not known"
        return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=reason)
    writes: dict[object, Op] = {op.value: op for op in written}
    found: list[Explanation] = []
    compared = 0
    for own in _by_client(ops).values():
        faults, times = _of_client(own, writes)
        found += faults
        compared += times
    if found:
        first = min(found, key=lambda why: (len(why.operations), why.offender.end))
        return Judgement(CHECK, key, Verdict.ILLEGAL, count, first, len(found))
    if not compared:
        reason = "no client read it twice, or after it wrote it, so there was nothing to compare"
        return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=reason)
    return Judgement(CHECK, key, Verdict.OK, count)


def _by_client(ops: Sequence[Op]) -> dict[str, list[Op]]:
    found: dict[str, list[Op]] = defaultdict(list)
    for op in sorted(ops, key=lambda op: op.start):
        if op.outcome == OK:
            found[op.client].append(op)
    return found


def _of_client(own: Sequence[Op], writes: dict[object, Op]) -> tuple[list[Explanation], int]:
    """What is wrong with what one client saw, and how often that could be said."""
    found: list[Explanation] = []
    last_read: Op | None = None
    last_write: Op | None = None
    compared = 0
    for op in own:
        if op.op == "write":
            last_write = op
            continue
        if (why := _nobodys(op, writes)) is not None:
            found.append(why)
            continue
        value = _number(op)
        excused = value != NOTHING and not writes[value].ok
        if last_read is not None:
            compared += 1
            if value < _number(last_read) and not excused:
                text = f"{said(op)} began after {said(last_read)} by the same client"
                found.append(Explanation(BACKWARDS, text, (last_read, op), op))
        if last_write is not None:
            compared += 1
            if value < last_write.value and not excused:
                text = f"{said(op)} began after {said(last_write)}, by the same client, was acknowledged"
                found.append(Explanation(OWN, text, (last_write, op), op))
        last_read = op
    return found, compared


def _nobodys(read: Op, writes: dict[object, Op]) -> Explanation | None:
    """A value that cannot have been there."""
    if read.result is None:
        return None
    if not _is_number(read.result):
        return Explanation(NO_NUMBER, said(read), (read,), read)
    write = writes.get(read.result)
    if write is None or write.start > read.end:
        return Explanation(PHANTOM, f"{said(read)}, which nobody had written by then", (read,), read)
    if write.outcome == FAIL:
        return Explanation(REFUSED, f"{said(read)}, though {said(write)}", (write, read), read)
    return None


def _number(read: Op) -> int:
    return NOTHING if read.result is None else int(read.result)


def _is_number(value: object) -> bool:
    return type(value) is int and value > NOTHING
