"""Long histories: the verdict is right and the explanation small. How fast it is, `./tools/bench checkers` measures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
from history_support import done, kind_of, read, real_register, seeded

from laila.lab.checkers import atomic, sets, swap_reasons, swaps, zones
from laila.lab.checkers.history import judge_history
from laila.lab.checkers.integrity import sealed
from laila.lab.checkers.operations import INVOKED, OK, Op
from laila.lab.checkers.verdict import Verdict, worst

SIZE = 100_000


@cache
def long_register() -> tuple[Op, ...]:
    return tuple(real_register(seeded(1), SIZE, unknown=0.002))


def end_of(ops: tuple[Op, ...]) -> float:
    return max(op.end for op in ops if op.end < math.inf)


def test_a_hundred_thousand_operations_are_right() -> None:
    found = atomic.judge(long_register(), "x")
    assert (found.verdict, found.operations) == (Verdict.OK, SIZE)


@pytest.mark.parametrize("where", [0.001, 0.5, 1.0])
def test_one_wrong_read_among_a_hundred_thousand_operations_is_found(where: float) -> None:
    """A read of the first value, at some time after it was replaced."""
    ops = long_register()
    first = next(op for op in ops if op.op == "write" and op.outcome == OK)
    at = 20 + end_of(ops) * where
    found = atomic.judge([*ops, read(first.value, at, at + 0.1)], "x")
    assert found.why is not None
    assert found.why.kind in (zones.STALE, zones.BACK)
    assert found.why.offender.result == first.value
    assert len(found.why.operations) <= 4


def test_a_register_that_answers_anything_is_explained_in_few_words() -> None:
    """Nearly every read contradicts others: all are counted, and the smallest is told."""
    chance = seeded(2)
    ops = real_register(chance, 20_000)
    values = [op.value for op in ops if op.op == "write" and op.outcome == OK]
    wild = [replace(op, result=chance.choice(values)) if op.op == "read" else op for op in ops]
    found = atomic.judge(wild, "x")
    assert found.faults > 5000
    assert found.why is not None
    assert len(found.why.operations) <= 2


def test_one_value_that_is_read_by_everybody_forever_is_explained() -> None:
    """A register that stopped: one value has a hundred thousand reads, and twenty thousand later writes are lost."""
    ops = [done("write", 0, 1, value="first")]
    ops += [done("write", 2 + n, 2.5 + n, value=f"v{n}") for n in range(20_000)]
    ops += [read("first", 2 + n / 5, 2.1 + n / 5) for n in range(100_000)]
    found = atomic.judge(ops, "x")
    assert found.faults >= 19_999
    assert found.why is not None
    assert (found.why.kind, len(found.why.operations)) == (zones.STALE, 3)


def test_a_long_saved_history_is_judged_from_its_lines() -> None:
    def lines() -> Iterator[str]:
        for op in long_register()[:30_000]:
            value, result = (None if one is None else sealed(one) for one in (op.value, op.result))
            kept = replace(op, value=value, result=result)
            yield json.dumps({"what": INVOKED, "workload": "register", **kept.to_record()})

    found = judge_history(lines())
    assert [one.check for one in found] == ["linearizable register", "integrity"]
    assert worst(found) is Verdict.OK
    assert found[0].operations == 30_000


def test_long_histories_of_swaps_are_searched_and_a_contradiction_at_the_end_is_small() -> None:
    ops = tuple(real_register(seeded(3), 20_000, swaps=True, unknown=0.002))
    assert kind_of(swaps.judge(ops, "x")) == "ok"
    last = end_of(ops)
    final = next(op for op in reversed(ops) if op.op == "read").result
    old = next(op.value for op in ops if op.op == "write" and op.outcome == OK)
    found = swaps.judge([*ops, done("cas", last + 1, last + 2, value=[old, "new"], result=True)], "x")
    assert kind_of(found) == swap_reasons.SWAP_WRONG
    assert found.why is not None
    assert len(found.why.operations) <= 3
    assert final != old


def test_thousands_of_elements_and_hundreds_of_lists_are_judged() -> None:
    adds = [done("add", n, n + 0.5, value=f"e{n}") for n in range(5000)]
    lists = [
        done("list", n + 0.6, n + 0.9, "node2/0", result=[f"e{m}" for m in range(n + 1)])
        for n in range(0, 5000, 25)
    ]
    final = done("list", 6000, 6001, "node3/0", result=[op.value for op in adds])
    assert kind_of(sets.judge([*adds, *lists, final], "x")) == "ok"
    without = replace(final, result=final.result[:2500] + final.result[2501:])
    found = sets.judge([*adds, *lists, without], "x")
    assert (kind_of(found), found.faults) == (sets.LOST, 1)
