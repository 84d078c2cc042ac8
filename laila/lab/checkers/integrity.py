"""Damaged bytes are never served: values carry their own checksum, and every one that is read has it right."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

from laila.lab.checkers.atomic import said
from laila.lab.checkers.operations import OK, Op
from laila.lab.checkers.verdict import Explanation, Judgement, Verdict

CHECK = "integrity"
DAMAGED = "a value that does not fit its checksum"
MARK = "~"


def sealed(text: str) -> str:
    """The text with its checksum at its end."""
    return f"{text}{MARK}{_sum(text)}"


def whole(value: Any) -> bool:
    """Whether `sealed` can have made it."""
    if not isinstance(value, str):
        return False
    text, mark, told = value.rpartition(MARK)
    return bool(mark) and told == _sum(text)


def judge(ops: Iterable[Op], name: str = "all values") -> Judgement:
    """Every read that found something, of all keys."""
    read = [op for op in ops if op.op == "read" and op.outcome == OK and op.result is not None]
    damaged = [op for op in read if not whole(op.result)]
    if damaged:
        first = min(damaged, key=lambda op: op.end)
        text = f"of {first.key}: {said(first)}"
        why = Explanation(DAMAGED, text, (first,), first)
        return Judgement(CHECK, name, Verdict.ILLEGAL, len(read), why, len(damaged))
    if not read:
        return Judgement(
            CHECK, name, Verdict.UNKNOWN, 0, reason="no read found anything, so nothing was compared"
        )
    return Judgement(CHECK, name, Verdict.OK, len(read))


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
