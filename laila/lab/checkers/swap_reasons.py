"""Why operations of a register that can compare and set have no order: the few that contradict each other, in words."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

from laila.lab.checkers.atomic import plain
from laila.lab.checkers.operations import FAIL, OK, Op, short
from laila.lab.checkers.smallest import Unit, smallest
from laila.lab.checkers.swap_model import KEPT, READ, SWAP, WRITE, decide, weakened
from laila.lab.checkers.verdict import Explanation
from laila.lab.checkers.wing_gong import Bounds, Call, Found

PHANTOM = "a value that nobody wrote"
REFUSED = "a value whose write was refused"
TWICE = "one value was swapped twice"
READ_WRONG = "a read that no order of the operations allows"
SWAP_WRONG = "a swap that no order of the operations allows"
KEPT_WRONG = "a swap that was refused though its value was there"

MOST = 12
"""So many operations are told at most."""


def explained(calls: Sequence[Call], blocked: Call, ops: Sequence[Op]) -> Explanation:
    """Of calls that have no order. `ops` are all operations, also those that were refused."""
    own = next(call for call in calls if call.op is blocked.op)
    value = own.what[1]

    def related(unit: Unit) -> bool:
        return value in unit[0].what[1:]

    units: list[Unit] = [(call,) for call in calls if not call.open]
    kept = [call for unit in smallest(units, own, _Parts(calls).judge, related) for call in unit]
    kept.sort(key=lambda call: (call.start, call.end))
    return _worded(kept, own, calls, ops)


class _Parts:
    """Whether a few calls have an order by themselves, while all others may be done late or never."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.to: dict[Hashable, list[Call]] = defaultdict(list)
        """What leads to a value, once nothing is claimed about it."""
        self.away: dict[Hashable, list[Call]] = defaultdict(list)
        """Swaps that lead away from a value."""
        self.writes: list[Call] = []
        """The earliest first."""
        for call in sorted(calls, key=lambda call: call.start):
            if (weak := weakened(call)) is not None:
                self.to[weak.what[-1]].append(weak)
                if weak.what[0] == SWAP:
                    self.away[weak.what[1]].append(weak)
                else:
                    self.writes.append(weak)

    def judge(self, kept: Sequence[Unit], bounds: Bounds) -> Found:
        chosen = [call for unit in kept for call in unit]
        return decide([*chosen, *self._helpful(chosen)], bounds)

    def _helpful(self, chosen: Sequence[Call]) -> list[Call]:
        """Of all others those that lead to a value that one of the chosen asks for, or away from one."""
        mine = {id(call.op) for call in chosen}
        refusing = {call.what[1] for call in chosen if call.what[0] == KEPT}
        asked = {call.what[1] for call in chosen if call.what[0] in (READ, SWAP)} | refusing
        front = list(asked)
        while front:
            for call in self.to[front.pop()]:
                if call.what[0] == SWAP and call.what[1] not in asked:
                    asked.add(call.what[1])
                    front.append(call.what[1])
        found = {id(call): call for value in asked for call in self.to[value]}
        if refusing:  # each needs one other value at most, and the earliest are as good as any
            count = sum(call.what[0] == KEPT for call in chosen)
            others = (call for call in self.writes if id(call) not in found and id(call.op) not in mine)
            found |= {id(call): call for call, _ in zip(others, range(count), strict=False)}
            for value in (None, *asked, *(call.what[-1] for call in chosen if call.what[0] in (WRITE, SWAP))):
                found |= {id(call): call for call in self.away[value]}
        return [call for call in found.values() if id(call.op) not in mine]


def _worded(kept: Sequence[Call], blocked: Call, calls: Sequence[Call], ops: Sequence[Op]) -> Explanation:
    offender = blocked if blocked in kept else max(kept, key=lambda call: call.end)
    chosen = tuple(call.op for call in kept)
    kinds = {call.what[0] for call in kept}
    value = offender.what[1]
    if len(kept) == 1 and kinds != {KEPT}:
        return _alone(offender, calls, ops)
    if kinds == {SWAP} and len({call.what[1] for call in kept}) == 1:
        there = "nothing" if value is None else short(value)
        return Explanation(TWICE, f"{_listed(chosen)}: {there} was there once", chosen, offender.op)
    kind = {READ: READ_WRONG, KEPT: KEPT_WRONG}.get(offender.what[0], SWAP_WRONG)
    if len(chosen) <= MOST:
        return Explanation(kind, f"no order fits all of: {_listed(chosen)}", chosen, offender.op)
    told = (*(op for op in chosen[-MOST:] if op is not offender.op), offender.op)
    text = (
        f"{said(offender.op)}: no order of the {len(chosen)} operations until then has a place for it; which of them "
        "contradict each other was not found in time"
    )
    return Explanation(kind, text, told, offender.op)


def _alone(call: Call, calls: Sequence[Call], ops: Sequence[Op]) -> Explanation:
    """A call that met a value which cannot have been there, whatever else happened."""
    op, value = call.op, call.what[1]
    if any(one.what[0] in (WRITE, SWAP) and one.what[-1] == value for one in calls):
        kind = READ_WRONG if op.op == "read" else SWAP_WRONG
        return Explanation(
            kind, f"{said(op)}, and nothing that was begun by then can have led to it", (op,), op
        )
    refused = next((one for one in ops if one.outcome == FAIL and _wrote(one) == value), None)
    if refused is None:
        return Explanation(PHANTOM, f"{said(op)}, and that value was never written", (op,), op)
    operations = tuple(sorted((refused, op), key=lambda one: (one.start, one.end)))
    return Explanation(REFUSED, f"{said(op)}, though {said(refused)}", operations, op)


def said(op: Op) -> str:
    """As explanations name it."""
    when = (
        f"({op.start:.4f} to {op.end:.4f} s)" if op.end < math.inf else f"(from {op.start:.4f} s, no answer)"
    )
    refused = ", refused" if op.outcome == FAIL else ""
    if op.op == "read":
        found = "found nothing" if op.result is None else f"gave {short(op.result)}"
        return f"the read by {op.client} that {found} {when}"
    if op.op == "write":
        return f"the write of {short(op.value)} by {op.client} {when}{refused}"
    old, new = (short(value) for value in op.value)
    but = ", which found another value" if op.outcome == OK and op.result is not True else refused
    return f"the swap of {old} for {new} by {op.client} {when}{but}"


def _listed(ops: Sequence[Op]) -> str:
    return "; ".join(map(said, ops))


def _wrote(op: Op) -> Hashable:
    if op.op == "write":
        return plain(op.value)
    return plain(op.value[1]) if op.op == "cas" else None
