"""The search for an order: it agrees with trying every order, explains in few operations, and never runs away."""

from __future__ import annotations

import math
import random
import time
import tracemalloc
from dataclasses import replace

import pytest
from history_support import (
    kind_of,
    of_register,
    read,
    real_register,
    refused,
    seeded,
    some_order,
    some_register,
    some_swaps,
    swap,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from laila.lab.checkers import atomic, smallest, swap_model, swap_reasons, swaps
from laila.lab.checkers.operations import OK, UNKNOWN, Op
from laila.lab.checkers.verdict import Judgement, Verdict
from laila.lab.checkers.wing_gong import Bounds, Found


def judged(*ops: Op) -> Judgement:
    return swaps.judge(ops, "x")


def decided(ops: list[Op]) -> Found:
    return swap_model.decide([call for op in ops if (call := swap_model.call_of(op)) is not None])


# -- against every order ------------------------------------------------------------------------------------


def test_it_agrees_with_trying_every_order_of_reads_writes_and_swaps() -> None:
    chance = seeded(1)
    right = wrong = 0
    for _ in range(5000):
        ops = some_swaps(chance, chance.randrange(2, 8))
        expected = some_order(ops, None, of_register)
        assert (decided(ops).verdict is Verdict.OK) == expected, ops
        right, wrong = right + expected, wrong + (not expected)
    assert min(right, wrong) > 900, "the histories are too much alike to show anything"


def test_it_agrees_with_trying_every_order_where_little_is_known() -> None:
    chance = seeded(9)
    found = set()
    for _ in range(2000):
        ops = some_swaps(chance, chance.randrange(4, 9), unknown=0.6)
        expected = some_order(ops, None, of_register)
        assert (decided(ops).verdict is Verdict.OK) == expected, ops
        found.add(expected)
    assert found == {True, False}


@pytest.mark.parametrize("first", ["write", "cas"])
def test_which_of_two_open_calls_was_done_when_is_tried_both_ways(first: str) -> None:
    """The swap is possible now only, the write also later; whichever is tried first, the other is tried too."""
    opened = [write("a", 0.1, None, "node3/1"), swap("b", "a", True, 0.2, None, "node3/2")]
    if first == "cas":
        opened = [replace(opened[1], start=0.1), replace(opened[0], start=0.2)]
    rest = [write("b", 1, 2), read("a", 3, 4), write("c", 5, 6), read("a", 7, 8)]
    assert decided([*opened, *rest]).verdict is Verdict.OK
    assert decided([*opened, *rest, write("c", 9, 10), read("a", 11, 12)]).verdict is Verdict.ILLEGAL


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 10))
def test_it_agrees_with_trying_every_order_whatever_the_seed(seed: int, size: int) -> None:
    ops = some_swaps(seeded(seed), size)
    assert (decided(ops).verdict is Verdict.OK) == some_order(ops, None, of_register)


def test_it_agrees_with_the_zones_on_twenty_thousand_small_histories() -> None:
    """Two judges that have nothing in common but the question."""
    chance = seeded(2)
    right = wrong = 0
    for _ in range(20_000):
        ops = some_register(chance, chance.randrange(2, 10))
        by_zones = atomic.judge(ops, "x").verdict is not Verdict.ILLEGAL
        assert (decided(ops).verdict is Verdict.OK) == by_zones, ops
        right, wrong = right + by_zones, wrong + (not by_zones)
    assert min(right, wrong) > 5000, "the histories are too much alike to show anything"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 300))
def test_what_a_real_register_answers_is_right(seed: int, size: int) -> None:
    assert decided(real_register(seeded(seed), size, swaps=True)).verdict is Verdict.OK


# -- what it says -------------------------------------------------------------------------------------------


def test_every_explanation_is_wrong_by_itself_and_each_of_its_operations_is_needed() -> None:
    """Whatever else happened is left open: it may have been at any time, or never."""
    chance = seeded(3)
    sizes = []
    for _ in range(1500):
        ops = some_swaps(chance, 8)
        why = judged(*ops).why
        if why is None or why.kind in (swap_reasons.PHANTOM, swap_reasons.REFUSED):
            continue
        told = set(map(id, why.operations))
        assert not some_order(_only(ops, told), None, of_register), why
        for one in told:
            assert some_order(_only(ops, told - {one}), None, of_register), why
        assert id(why.offender) in told
        assert all(op.client in why.text for op in why.operations)
        sizes.append(len(told))
    assert len(sizes) > 400
    assert sum(size <= 3 for size in sizes) > 0.7 * len(sizes)


def _only(ops: list[Op], told: set[int]) -> list[Op]:
    """These operations, and all others as if nobody knew of them."""
    found = []
    for op in ops:
        if id(op) in told:
            found.append(op)
        elif op.op == "write" or (op.op == "cas" and (op.outcome == UNKNOWN or op.result is True)):
            found.append(replace(op, end=math.inf, outcome=UNKNOWN, result=None))
    return found


def test_one_value_swapped_twice_is_named() -> None:
    first, second = swap("a", "b", True, 2, 3, "node1/0"), swap("a", "c", True, 2.5, 4, "node2/0")
    found = judged(write("a", 0, 1), first, second, read("c", 5, 6), read("b", 2.6, 2.7))
    assert kind_of(found) == swap_reasons.TWICE
    assert found.why is not None
    assert found.why.operations == (first, second)
    assert found.why.text == (
        "the swap of a for b by node1/0 (2.0000 to 3.0000 s); the swap of a for c by node2/0 (2.5000 to 4.0000 s): "
        "a was there once"
    )


@pytest.mark.parametrize(
    ("ops", "kind"),
    [
        ((write("a", 0, 1), read("z", 2, 3)), swap_reasons.PHANTOM),
        ((write("a", 0, 1), swap("z", "b", True, 2, 3)), swap_reasons.PHANTOM),
        ((write("a", 0, 1), refused("write", 2, 3, value="b"), read("b", 4, 5)), swap_reasons.REFUSED),
        ((write("a", 0, 1), refused("cas", 2, 3, value=["a", "b"]), read("b", 4, 5)), swap_reasons.REFUSED),
        ((write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)), swap_reasons.READ_WRONG),
        ((read("a", 0, 1), write("a", 2, 3)), swap_reasons.READ_WRONG),
        ((write("a", 0, 1), write("b", 2, 3), swap("a", "c", True, 4, 5)), swap_reasons.SWAP_WRONG),
        ((write("a", 0, 1), swap("a", "b", False, 2, 3)), swap_reasons.KEPT_WRONG),
        ((write("a", 0, 1), swap("a", "b", True, 2, 3), read("a", 4, 5)), swap_reasons.READ_WRONG),
    ],
)
def test_each_way_of_being_wrong_is_named(ops: tuple[Op, ...], kind: str) -> None:
    assert kind_of(judged(*ops)) == kind


def test_what_is_not_known_may_be_late_or_never() -> None:
    opened = swap("a", "b", True, 2, None)
    rest = (swap("a", "x", True, 30, 31), read("x", 32, 33))
    assert kind_of(judged(write("a", 0, 1), opened, read("a", 3, 4), *rest)) == "ok"
    assert kind_of(judged(write("a", 0, 1), opened, read("b", 3, 4), swap("b", "c", True, 5, 6))) == "ok"
    late = (write("d", 10, 11), write("a", 12, 13), read("b", 14, 15), swap("b", "e", True, 16, 17))
    assert kind_of(judged(write("a", 0, 1), opened, *late)) == "ok"
    twice = (read("b", 3, 4), write("a", 5, 6), read("b", 7, 8))
    assert kind_of(judged(write("a", 0, 1), opened, *twice)) == swap_reasons.READ_WRONG


def test_a_contradiction_after_thousands_of_operations_is_told_in_three() -> None:
    ops = real_register(seeded(4), 3000, swaps=True)
    last = max(op.end for op in ops if op.outcome == OK)
    first = next(op for op in ops if op.op == "write" and op.outcome == OK)
    found = judged(*ops, read(first.value, last + 1, last + 2))
    assert found.why is not None
    assert found.why.offender.result == first.value
    assert len(found.why.operations) <= 3


def test_the_time_for_a_small_explanation_is_bounded() -> None:
    """With no time at all the explanation is still a contradiction, only not small."""
    ops = [*(write(f"v{n}", n, n + 0.5) for n in range(40)), read("v3", 50, 51)]
    calls = [call for op in ops if (call := swap_model.call_of(op)) is not None]
    blocked = swap_model.decide(calls).blocked
    assert blocked is not None

    def judge(kept: object, bounds: Bounds) -> Found:
        raise AssertionError("there is no time to ask")

    own = next(call for call in calls if call.op is blocked.op)
    left = smallest.smallest([(call,) for call in calls], own, judge, lambda unit: False, seconds=0.0)
    assert len(left) == len(calls)


def test_what_shows_nothing_is_unknown() -> None:
    for ops in (
        (),
        (write("a", 0, 1), read("a", 2, 3)),
        (write("a", 0, 1), swap("b", "c", False, 2, 3)),
        (write("a", 0, 9), swap("a", "b", True, 0, 9), read("b", 1, 8)),
    ):
        found = judged(*ops)
        assert found.verdict is Verdict.UNKNOWN
        assert found.reason
    backwards = judged(write("a", 0, 1), read("a", 5, 4))
    assert backwards.verdict is Verdict.UNKNOWN
    assert "the clocks say nothing" in backwards.reason


# -- never away ---------------------------------------------------------------------------------------------


def hostile(size: int, chance: random.Random) -> list[Op]:
    """Swaps among few values, all at once: an order is a walk along all of them. There is none, and to know it nearly
    all walks must be tried.
    """
    ops = [write("v0", 0, 1)]
    for number in range(size):
        old, new = chance.sample(range(6), 2)
        ops.append(swap(f"v{old}", f"v{new}", True, 2, 10, f"node1/{number}"))
    return ops


def test_a_hostile_history_is_given_up_in_time() -> None:
    ops = hostile(40, seeded(5))
    began = time.monotonic()
    found = swaps.judge(ops, "x", Bounds(seconds=0.5, points=10**9))
    assert time.monotonic() - began < 30  # generous: a busy machine may stop this process for a while
    assert found.verdict is Verdict.UNKNOWN
    assert "given up after 0.5 s of computing" in found.reason
    assert "of 41 operations" in found.reason


def test_a_hostile_history_is_given_up_before_it_takes_much_memory() -> None:
    ops = hostile(40, seeded(5))
    tracemalloc.start()
    try:
        found = swaps.judge(ops, "x", Bounds(seconds=600, points=3000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.verdict is Verdict.UNKNOWN
    assert "points" in found.reason
    assert peak < 20e6


def test_the_bounds_are_for_each_name() -> None:
    hard = [replace(op, key="hard") for op in hostile(40, seeded(5))]
    easy = [write("a", 0, 1), swap("a", "b", True, 2, 3), read("b", 4, 5)]
    found = {one.name: one.verdict for one in swaps.judge_all([*hard, *easy], Bounds(600, 2000))}
    assert found == {"hard": Verdict.UNKNOWN, "x": Verdict.OK}


def test_many_crashed_clients_do_not_make_it_slow() -> None:
    """Fifty open writes and swaps, of which any subset may have been done, and a contradiction after them."""
    ops = [write("a", 0, 1)]
    ops += [write(f"w{n}", 2, None, f"node1/{n}") for n in range(25)]
    ops += [swap("a", f"s{n}", True, 2, None, f"node2/{n}") for n in range(25)]
    ops += [write("b", 3, 4), swap("b", "c", True, 5, 6), read("c", 7, 8)]
    assert kind_of(judged(*ops)) == "ok"
    wrong = decided([*ops, read("a", 9, 10)])
    assert wrong.verdict is Verdict.ILLEGAL
    assert wrong.points < 5000
