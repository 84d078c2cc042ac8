"""A register that can compare and set, as a model for the search: what its operations are, and whether they fit.

A write or swap of which nobody knows the outcome may be done at any later time, or never. What was refused never is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from laila.lab.checkers.atomic import plain
from laila.lab.checkers.operations import FAIL, OK, Op
from laila.lab.checkers.wing_gong import IMPOSSIBLE, USUAL, Bounds, Call, Found, search

READ, WRITE, SWAP, KEPT = range(4)
"""Kinds of calls: (READ, found), (WRITE, new), (SWAP, old, new); (KEPT, old) is a swap that found another value."""
OTHER: Final = ("any other value",)
"""All values that nobody ever asked for: one is as good as another."""


def call_of(op: Op) -> Call | None:
    """None for what says nothing: refused, or a read that was not answered."""
    if op.outcome == FAIL or (op.op == "read" and op.outcome != OK):
        return None
    end = op.end if op.outcome == OK else math.inf
    if op.op == "read":
        return Call((READ, plain(op.result)), op.start, end, op, looks=True)
    if op.op == "write":
        return Call((WRITE, plain(op.value)), op.start, end, op)
    old, new = (plain(value) for value in op.value)
    swapped = op.outcome != OK or op.result is True
    if swapped:
        return Call((SWAP, old, new), op.start, end, op)
    return Call((KEPT, old), op.start, end, op, looks=True)


def decide(calls: Sequence[Call], bounds: Bounds = USUAL) -> Found:
    """Whether they have an order."""
    return search(None, step, told_apart(calls), bounds)


def step(state: Any, what: tuple[Any, ...]) -> Any:
    """A register that can compare and set."""
    kind, value = what[0], what[1]
    if kind == READ:
        return state if state == value else IMPOSSIBLE
    if kind == WRITE:
        return value
    if kind == SWAP:
        return what[2] if state == value else IMPOSSIBLE
    return IMPOSSIBLE if state == value else state


def told_apart(calls: Sequence[Call]) -> list[Call]:
    """The same calls, where values that nobody reads or compares with are one, and open swaps that can never be done,
    or do nothing that matters, are gone.
    """
    asked = {call.what[1] for call in calls if call.what[0] != WRITE}
    there = {None, *(call.what[-1] for call in calls if call.what[0] in (WRITE, SWAP))}
    found = []
    for call in calls:
        kind, new = call.what[0], call.what[-1]
        if kind == SWAP and call.open and call.what[1] not in there:
            continue
        if kind in (WRITE, SWAP) and new not in asked:
            what = (WRITE, OTHER) if kind == WRITE else (SWAP, call.what[1], OTHER)
            call = Call(what, call.start, call.end, call.op)
        found.append(call)
    return found


def weakened(call: Call) -> Call | None:
    """What is left of a call when nothing is claimed about it."""
    if call.looks:
        return None
    return call if call.open else Call(call.what, call.start, math.inf, call.op)
