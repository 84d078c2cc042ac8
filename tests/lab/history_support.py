"""Histories for the judges' tests: operations by few words, searches through all orders, and systems that are right."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from laila.lab.checkers.operations import FAIL, OK, UNKNOWN, Op
from laila.lab.checkers.verdict import Judgement


def seeded(seed: int | str) -> random.Random:
    return random.Random(seed)  # noqa: S311  repeatable on purpose


def done(
    op: str, start: float, end: float | None, client: str = "node1/0", key: str = "x", **more: Any
) -> Op:
    """An operation that went through; with no end nobody knows."""
    last, outcome = (math.inf, UNKNOWN) if end is None else (end, OK)
    node = client.partition("/")[0]
    return Op(client, node, op, key, more.get("value"), more.get("result"), start, last, outcome)


def refused(
    op: str, start: float, end: float, client: str = "node1/0", key: str = "x", value: Any = None
) -> Op:
    return Op(client, client.partition("/")[0], op, key, value, None, start, end, FAIL, "Refused")


def read(value: Any, start: float, end: float, client: str = "node2/0", key: str = "x") -> Op:
    return done("read", start, end, client, key, result=value)


def write(value: Any, start: float, end: float | None, client: str = "node1/0", key: str = "x") -> Op:
    return done("write", start, end, client, key, value=value)


def swap(
    old: Any,
    new: Any,
    swapped: bool,
    start: float,
    end: float | None,
    client: str = "node3/0",
    key: str = "x",
) -> Op:
    return done("cas", start, end, client, key, value=[old, new], result=None if end is None else swapped)


def kind_of(found: Judgement) -> str:
    """The kind of an illegal history, else the verdict."""
    return found.why.kind if found.why is not None else found.verdict.value


# -- through all orders -------------------------------------------------------------------------------------

Effect = Callable[[Any, Op], Iterator[Any]]
"""The states to which an operation can lead from a state; none when it is impossible there."""


def some_order(ops: Sequence[Op], initial: Any, effect: Effect) -> bool:
    """Is there an order of all that ended, and of some of what did not? No cleverness: every order is tried."""
    items = [op for op in ops if op.outcome != FAIL and not (op.op == "read" and op.outcome != OK)]
    pending = frozenset(n for n, op in enumerate(items) if op.outcome == UNKNOWN)

    @cache
    def possible(left: frozenset[int], state: Any) -> bool:
        if left <= pending:
            return True
        first_end = min(items[n].end for n in left)
        return any(
            possible(left - {n}, after)
            for n in left
            if items[n].start <= first_end
            for after in effect(state, items[n])
        )

    return possible(frozenset(range(len(items))), initial)


def of_register(state: Any, op: Op) -> Iterator[Any]:
    """A register that can compare and set; what is not known may also have come to nothing."""
    if op.op == "read":
        if op.result == state:
            yield state
    elif op.op == "write":
        yield op.value
    elif op.outcome == UNKNOWN or op.result is True:
        if op.value[0] == state:
            yield op.value[1]
    elif op.value[0] != state:
        yield state


def of_lock(state: tuple[str, int], op: Op) -> Iterator[tuple[str, int]]:
    """A lock with fencing tokens: who has it, and the last token."""
    holder, last = state
    if op.op == "acquire":
        if not holder and op.outcome == UNKNOWN:
            yield op.client, last
        elif not holder and op.result > last:
            yield op.client, op.result
    elif holder == op.client:
        yield "", last


# -- by chance ----------------------------------------------------------------------------------------------


def some_register(chance: random.Random, size: int) -> list[Op]:
    """Small, crowded, often nearly right: reads prefer values of writes that are near. Every value is written once."""
    ops: list[Op] = []
    values: list[Any] = [None]
    for number in range(size):
        start = chance.randrange(12)
        end, client, dice = start + chance.randrange(6), f"node1/{number}", chance.random()
        if chance.random() < 0.45:
            value = f"v{number}"
            values.append(value)
            if dice < 0.05:
                ops.append(refused("write", start, end, client, value=value))
            else:
                ops.append(write(value, start, None if dice < 0.25 else end, client))
        else:
            ops.append(read(chance.choice(values[-3:]), start, end, client))
    return ops


def some_swaps(chance: random.Random, size: int, unknown: float = 0.25) -> list[Op]:
    """The same with few values, which are written again and again, and with swaps."""
    ops: list[Op] = []
    for number in range(size):
        start = chance.randrange(10)
        end, client = start + chance.randrange(5), f"node1/{number}"
        last = None if chance.random() < unknown else end
        old, new = chance.choice((None, "a", "b", "c")), chance.choice(("a", "b", "c"))
        dice = chance.random()
        if dice < 0.35:
            ops.append(read(old, start, end, client))
        elif dice < 0.55:
            ops.append(write(new, start, last, client))
        else:
            ops.append(swap(old, new, chance.random() < 0.6, start, last, client))
    return ops


def real_register(chance: random.Random, size: int, swaps: bool = False, unknown: float = 0.05) -> list[Op]:
    """What a real register answers: each operation is done at one instant, and seen as lasting around it."""
    ops: list[Op] = []
    state: Any = None
    for number in range(size):
        start, end = number - chance.random() * 4, number + chance.random() * 4
        client, value, dice = f"node{number % 3 + 1}/{number}", f"v{number}", chance.random()
        last = None if chance.random() < unknown else end
        happens = last is not None or chance.random() < 0.5
        if dice < 0.3:
            state = value if happens else state
            ops.append(write(value, start, last, client))
        elif dice < 0.6 and swaps:
            old = state if chance.random() < 0.7 else f"v{chance.randrange(number + 1)}"
            fits = old == state
            state = value if fits and happens else state
            ops.append(swap(old, value, fits, start, last, client))
        else:
            ops.append(read(state, start, end, client))
    return ops
