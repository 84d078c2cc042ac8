"""What only a lock protects: every holder finds what the one before it wrote.

Holders read and write one value while they have the lock, so writes follow each other, and a read must find the last
one that was acknowledged before it. A write of which nobody knows may arrive late and cover newer ones, also after its
writer has lost the lock: nothing but a store that asks for the fencing token can prevent that. Where the store does
(`fenced`), a write that was overtaken must not be seen.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence

from laila.lab.checkers.atomic import REFUSED, by_key, plain, said
from laila.lab.checkers.operations import FAIL, OK, Op
from laila.lab.checkers.tenures import Taken
from laila.lab.checkers.verdict import Explanation, Judgement, Verdict
from laila.lab.checkers.zones import EARLY, PHANTOM

CHECK = "nothing lost under a lock"
LOST = "an update under the lock was lost"
OVERTAKEN = "a write by an overtaken holder is visible"


def judge_all(ops: Iterable[Op], taken: dict[str, Taken], fenced: bool = False) -> list[Judgement]:
    """Every value that was read and written, sorted by key; `taken` are all locks that these clients had."""
    tokens = _tokens(taken)
    found = by_key(ops, ("read", "write"))
    return [judge(of_key, key, tokens, fenced) for key, of_key in sorted(found.items())]


def judge(ops: Sequence[Op], key: str, tokens: dict[str, list[tuple[float, int]]], fenced: bool) -> Judgement:
    """One value. `tokens`: for each client when it got which."""
    reads = [op for op in ops if op.op == "read" and op.outcome == OK]
    writes = [op for op in ops if op.op == "write"]
    count = len(reads) + len(writes)
    by_value = {plain(op.value): op for op in writes}
    if len(by_value) < len(writes):
        reason = "a value was written twice, so it cannot be known which write a read has seen"
        return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=reason)
    done = sorted((op for op in writes if op.outcome == OK), key=lambda op: op.end)
    ends = [op.end for op in done]
    newest: list[Op] = []  # of those that had ended, the one that was begun last
    for op in done:
        newest.append(op if not newest or op.start > newest[-1].start else newest[-1])
    found, compared = [], 0
    for read in sorted(reads, key=lambda op: op.start):
        turn = bisect.bisect_left(ends, read.start)
        compared += turn > 0
        last = newest[turn - 1] if turn else None
        if (why := _wrong(read, by_value.get(plain(read.result)), last, tokens, fenced)) is not None:
            found.append(why)
    if found:
        return Judgement(CHECK, key, Verdict.ILLEGAL, count, found[0], len(found))
    if not compared:
        reason = "nobody read it after an acknowledged write, so nothing is known of it"
        return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=reason)
    return Judgement(CHECK, key, Verdict.OK, count)


def _wrong(
    read: Op, write: Op | None, last: Op | None, tokens: dict[str, list[tuple[float, int]]], fenced: bool
) -> Explanation | None:
    if write is None and read.result is not None:
        return Explanation(PHANTOM, f"{said(read)}, which no holder wrote", (read,), read)
    if write is not None and write.start > read.end:
        return Explanation(
            EARLY, f"{said(read)} was over before {said(write)} was begun", (read, write), read
        )
    if write is not None and write.outcome == FAIL:
        return Explanation(REFUSED, f"{said(read)}, though {said(write)}", (write, read), read)
    if last is None or last is write:
        return None
    if write is None:
        return Explanation(
            LOST, f"{said(read)} began after {said(last)} was acknowledged", (last, read), read
        )
    if write.outcome == OK:
        if last.start <= write.end:
            return None
        text = f"{said(read)} began after {said(last)} was acknowledged, and that one after {said(write)} had ended"
        return Explanation(LOST, text, (write, last, read), read)
    old, new = _token_of(write, tokens), _token_of(last, tokens)
    if not fenced or old is None or new is None or old >= new:
        return None
    text = f"{said(read)}, which had token {old}, after {said(last)} with token {new} was acknowledged"
    return Explanation(OVERTAKEN, text, (write, last, read), read)


def _tokens(taken: dict[str, Taken]) -> dict[str, list[tuple[float, int]]]:
    found: dict[str, list[tuple[float, int]]] = {}
    for one in (one for each in taken.values() for one in each.tenures):
        if one.token is not None:
            found.setdefault(one.client, []).append((one.got, one.token))
    for own in found.values():
        own.sort()
    return found


def _token_of(write: Op, tokens: dict[str, list[tuple[float, int]]]) -> int | None:
    own = tokens.get(write.client, [])
    turn = bisect.bisect_right(own, (write.start, math.inf))
    return own[turn - 1][1] if turn else None
