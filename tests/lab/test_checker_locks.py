"""The judges of locks: holds, tokens, and what only the lock protects; they agree with trying every order."""

from __future__ import annotations

import random
import time
import tracemalloc
from dataclasses import replace

import pytest
from history_support import done, kind_of, of_lock, read, refused, seeded, some_order, write

from laila.lab.checkers import guarded, locks
from laila.lab.checkers.operations import FAIL, OK, UNKNOWN, Op
from laila.lab.checkers.tenures import tenures
from laila.lab.checkers.verdict import Judgement, Verdict
from laila.lab.checkers.wing_gong import Bounds


def acquire(start: float, end: float | None, client: str, token: int | None = None) -> Op:
    return done("acquire", start, end, client, "lock", result=token)


def release(start: float, end: float | None, client: str) -> Op:
    return done("release", start, end, client, "lock")


def held(asked: float, got: float, gave: float, client: str, token: int | None = None) -> list[Op]:
    return [acquire(asked, got, client, token), release(gave, gave + 0.1, client)]


def judged(*groups: list[Op], lease: float = 0.0, bounds: Bounds | None = None) -> Judgement:
    ops = [op for group in groups for op in group]
    (found,) = locks.judge_all(ops, lease, bounds or Bounds())
    return found


RIGHT = [
    held(0, 0.1, 1, "node1/0", 1),
    held(0.5, 1.2, 2, "node2/0", 2),
    held(0.6, 2.2, 3, "node3/0", 5),
    held(2.5, 3.2, 4, "node1/0", 6),
]


def some_holds(chance: random.Random, size: int) -> list[Op]:
    """Small and crowded; the tokens mostly rise with time, and some clients are never heard of again."""
    ops: list[Op] = []
    for number in range(size):
        client, start = f"node1/{number}", chance.randrange(14)
        got = start + chance.randrange(4)
        if chance.random() < 0.1:
            ops.append(acquire(start, None, client))
            continue
        token = max(1, got + chance.choice((0, 0, 0, 0, 1, -1)) * chance.randrange(4))
        ops.append(acquire(start, got, client, token))
        gave, dice = got + chance.randrange(3), chance.random()
        if dice < 0.15:
            ops.append(release(gave, None, client))
        elif dice < 0.9:
            ops.append(release(gave, gave + chance.randrange(3), client))
    return ops


# -- agreement ----------------------------------------------------------------------------------------------


def test_holds_and_tokens_agree_with_the_search_and_with_trying_every_order() -> None:
    chance = seeded(1)
    right = wrong = 0
    for _ in range(4000):
        ops = some_holds(chance, chance.randrange(2, 5))
        (taken,) = tenures(ops).values()
        by_times = not (locks.overlaps(taken.tenures) or locks.unrisen(taken.tenures))
        by_search = locks.decide(locks.calls_of(taken, leased=False)).verdict is Verdict.OK
        if all(one.lasted for one in taken.tenures):
            assert by_times == by_search, ops
        assert by_times or not by_search, ops  # of who died at once the times say less than the search
        assert by_search == some_order(_as_calls(ops), ("", 0), of_lock), ops
        right, wrong = right + by_search, wrong + (not by_search)
    assert min(right, wrong) > 1000, "the histories are too much alike to show anything"


def _as_calls(ops: list[Op]) -> list[Op]:
    """The same for the search of every order: who is not heard of any more need not have the lock any more."""
    letting_go = {op.client: op for op in ops if op.op == "release"}
    found: list[Op] = []
    for op in ops:
        if op.op == "release" and op.outcome == UNKNOWN:
            got = next(one for one in ops if one.client == op.client and one.op == "acquire")
            op = replace(op, start=got.start)
        found.append(op)
        if op.op == "acquire" and op.outcome == OK and op.client not in letting_go:
            found.append(release(op.start, None, op.client))
    return found


def test_a_long_contended_history_is_right_and_one_hold_too_many_is_found() -> None:
    chance = seeded(2)
    ops: list[Op] = []
    now = 0.0
    for token in range(1, 4001):
        client = f"node{token % 6}/{token % 6}"
        got, gave = now + chance.random(), now + 1 + chance.random()
        ops += held(max(now - 3 * chance.random(), 0.0), got, gave, f"{client}#{token}", token)
        now = gave + 0.1
    assert kind_of(judged(ops)) == "ok"
    late = next(op for op in ops if op.op == "release" and op.start > now / 2)
    broken = [replace(op, start=op.start + 2.5, end=op.end + 2.5) if op is late else op for op in ops]
    found = judged(broken)
    assert kind_of(found) == locks.OVERLAP
    assert found.why is not None
    assert late.client in {op.client for op in found.why.operations}


# -- what it says -------------------------------------------------------------------------------------------


def test_holds_one_after_another_are_right() -> None:
    assert kind_of(judged(*RIGHT)) == "ok"
    assert kind_of(judged(*([replace(op, result=None) for op in hold] for hold in RIGHT))) == "ok"


def test_two_holders_are_named_with_the_time_for_which_both_had_it() -> None:
    found = judged(held(0, 1, 3, "node1/0", 1), held(0.5, 2, 4, "node2/0", 2))
    assert found.why is not None
    assert found.why.kind == locks.OVERLAP
    assert found.why.text == (
        "node1/0 (token 1, from 1.0000 to 3.0000 s) and node2/0 (token 2, from 2.0000 to 4.0000 s), both for "
        "1000.000 ms"
    )
    assert (found.why.offender.client, len(found.why.operations)) == ("node2/0", 4)


@pytest.mark.parametrize("token", [1, 0, 2])
def test_a_token_that_does_not_rise_is_named(token: int) -> None:
    found = judged(RIGHT[0], RIGHT[1], held(1.5, 2.2, 3, "node3/0", token))
    assert kind_of(found) == locks.UNRISEN
    assert found.why is not None
    assert [op.result for op in found.why.operations] == [2, token]


def test_tokens_of_those_who_asked_together_rise_in_the_order_in_which_they_had_it() -> None:
    assert kind_of(judged(held(0, 1, 2, "a/0", 1), held(0, 2.5, 3, "b/0", 2))) == "ok"
    assert kind_of(judged(held(0, 1, 2, "a/0", 2), held(0, 2.5, 3, "b/0", 1))) == locks.UNRISEN


def test_a_lock_let_go_by_one_who_never_got_it_is_named() -> None:
    found = judged(RIGHT[0], RIGHT[1], [release(5, 6, "node9/0")])
    assert kind_of(found) == locks.STRAY
    assert found.why is not None
    assert found.why.operations == (found.why.offender,)
    asked = acquire(4, None, "node9/0")
    assert kind_of(judged(RIGHT[0], RIGHT[1], [asked, release(5, 6, "node9/0")])) == "ok"


def test_one_who_died_may_have_lost_it_right_after_its_last_answer() -> None:
    dead = [acquire(0, 1, "node1/0", 1)]
    other = held(0.5, 2, 3, "node2/0", 2)
    assert kind_of(judged(dead, other)) == "ok"
    assert kind_of(judged(dead, [release(4, None, "node1/0")], other)) == "ok"
    assert kind_of(
        judged(dead, [read(1, 2.2, 2.4, "node1/0", "count"), release(4, None, "node1/0")], other)
    ) == (locks.OVERLAP)


def test_a_lease_ends_by_itself_and_not_before() -> None:
    first, second = held(0, 1, 8, "node1/0", 1), held(0.5, 5.5, 6, "node2/0", 2)
    assert kind_of(judged(first, second)) == locks.OVERLAP
    assert kind_of(judged(first, second, lease=5.0)) == "ok"
    assert kind_of(judged(first, second, lease=5.6)) == locks.OVERLAP


def test_what_was_refused_or_is_not_known_says_nothing() -> None:
    more = [refused("acquire", 1, 2, "node4/0", "lock"), acquire(1, None, "node5/0")]
    assert kind_of(judged(*RIGHT, more)) == "ok"


def test_what_shows_nothing_is_unknown() -> None:
    for ops in (RIGHT[0], [*RIGHT[0], *held(5, 6, 7, "node2/0", 2)], [refused("acquire", 0, 1, key="lock")]):
        found = judged(ops)
        assert found.verdict is Verdict.UNKNOWN
        assert found.reason
    assert [one.verdict for one in locks.judge_all([])] == [Verdict.UNKNOWN]
    backwards = judged(*RIGHT, held(9, 8, 10, "node1/0", 7))
    assert "the clocks say nothing" in backwards.reason


def test_the_search_is_bounded() -> None:
    found = judged(*RIGHT, bounds=Bounds(seconds=60, points=1))
    assert found.verdict is Verdict.UNKNOWN
    assert "given up" in found.reason


@pytest.mark.parametrize(
    ("bounds", "given_up"),
    [
        (Bounds(seconds=60, points=3000), "given up after 3,001 points"),
        (Bounds(seconds=0.5, points=10**9), "given up after 0.5 s of computing"),
    ],
)
def test_forty_holds_at_once_that_nobody_let_go_of_do_not_run_away(bounds: Bounds, given_up: str) -> None:
    """Each of them can have come before the one that lasted but the last, and that takes all orders to know."""
    holds = [[acquire(0, 10, f"node1/{number}")] for number in range(39)]
    late = [acquire(5, 10, "node2/0")]
    began = time.monotonic()
    tracemalloc.start()
    try:
        found = judged(*holds, late, held(0, 1, 30, "node3/0"), bounds=bounds)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.verdict is Verdict.UNKNOWN
    assert given_up in found.reason
    assert time.monotonic() - began < 30  # generous: a busy machine may stop this process for a while
    assert peak < 20e6
    few = judged(*holds[:5], late, held(0, 1, 30, "node3/0"))
    assert kind_of(few) == locks.NO_ORDER, "the same with few of them can be decided"


def test_one_that_was_never_got_is_seen_however_many_died_with_the_lock() -> None:
    """Whatever order the others have: it needs no search."""
    holds = [[acquire(0, 10, f"node1/{number}")] for number in range(40)]
    found = judged(*holds, [release(20, 21, "node9/0")], bounds=Bounds(seconds=60, points=3000))
    assert kind_of(found) == locks.STRAY


# -- what the lock protects ---------------------------------------------------------------------------------


def counting(number: int, asked: float, got: float, gave: float, client: str, found: str | None) -> list[Op]:
    """A hold with token `number` that reads `found` and writes the next number."""
    third = (gave - got) / 3
    return [
        *held(asked, got, gave, client, number),
        read(found, got + 0.01, got + third, client, "count"),
        write(f"{number}:{client}", got + 1.5 * third, gave - 0.01, client, "count"),
    ]


COUNTED = [
    counting(1, 0, 0.1, 1, "node1/0", None),
    counting(2, 0.5, 1.2, 2, "node2/0", "1:node1/0"),
    counting(3, 0.6, 2.2, 3, "node3/0", "2:node2/0"),
]


def counted(*groups: list[Op], fenced: bool = False) -> Judgement:
    ops = [op for group in groups for op in group]
    (found,) = guarded.judge_all(ops, tenures(ops), fenced)
    return found


def test_a_counter_under_the_lock_is_right() -> None:
    assert kind_of(counted(*COUNTED)) == "ok"
    assert kind_of(judged(*COUNTED)) == "ok"


@pytest.mark.parametrize(
    ("found", "kind"),
    [(None, guarded.LOST), ("1:node1/0", guarded.LOST), ("9:nobody", guarded.PHANTOM)],
)
def test_a_holder_who_does_not_find_the_last_write_is_named(found: str | None, kind: str) -> None:
    third = counting(3, 0.6, 2.2, 3, "node3/0", found)
    assert kind_of(counted(COUNTED[0], COUNTED[1], third)) == kind


def test_a_refused_write_must_not_be_seen() -> None:
    first = [replace(op, outcome=FAIL) if op.op == "write" else op for op in COUNTED[0]]
    assert kind_of(counted(first, COUNTED[1])) == guarded.REFUSED


def test_a_late_write_of_one_who_died_is_a_fault_only_where_the_store_asks_for_tokens() -> None:
    late = [acquire(0, 0.1, "node9/0", 1), write("1:late", 0.2, None, "node9/0", "count")]
    second = counting(2, 0.5, 1.2, 2, "node2/0", None)
    third = counting(3, 0.6, 2.2, 3, "node3/0", "1:late")
    assert kind_of(counted(late, second, third)) == "ok"
    assert kind_of(counted(late, second, third, fenced=True)) == guarded.OVERTAKEN
    assert kind_of(counted(late, counting(2, 0.5, 1.2, 2, "node2/0", "1:late"), fenced=True)) == "unknown"


def test_a_counter_that_nobody_compared_is_unknown() -> None:
    assert counted(COUNTED[0]).verdict is Verdict.UNKNOWN
    twice = [*COUNTED[0], write("1:node1/0", 5, 6, "node4/0", "count")]
    assert "twice" in counted(twice).reason
