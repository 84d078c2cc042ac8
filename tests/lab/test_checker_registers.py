"""The judge of registers: it agrees with a search through all orders, and says in words what contradicts what."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laila.lab.checkers import registers
from laila.lab.checkers.registers import Judgement, Read, Verdict, Write
from laila.lab.clocks import Moment

Op = Write | Read


def write(value: str, began: float, ended: float | None, client: str = "node1/0") -> Write:
    end = None if ended is None else Moment.at(ended)
    return Write(client, client.split("/")[0], "x", value, Moment.at(began), end)


def read(value: str | None, began: float, ended: float, client: str = "node2/0") -> Read:
    return Read(client, client.split("/")[0], "x", value, Moment.at(began), Moment.at(ended))


def judged(*operations: Op) -> Judgement:
    writes = [operation for operation in operations if isinstance(operation, Write)]
    return registers.judge(writes, [one for one in operations if isinstance(one, Read)], name="x")


def kind(*operations: Op) -> str:
    found = judged(*operations)
    return found.why.kind if found.why is not None else found.verdict.value


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  repeatable on purpose


def searched(operations: Sequence[Op]) -> bool:
    """Wing and Gong: is there any order of all that ended, and some of what did not, that a register allows?"""
    items = list(operations)
    pending = frozenset(n for n, one in enumerate(items) if isinstance(one, Write) and one.ended is None)

    @cache
    def possible(left: frozenset[int], value: str | None) -> bool:
        if left <= pending:
            return True
        first_end = min(items[n].end for n in left)
        for number in left:
            one = items[number]
            if one.start > first_end:
                continue  # another one had ended before it began
            if isinstance(one, Write):
                if possible(left - {number}, one.value):
                    return True
            elif one.value == value and possible(left - {number}, value):
                return True
        return False

    return possible(frozenset(range(len(items))), None)


def some_history(chance: random.Random, size: int) -> list[Op]:
    """Small, crowded, often nearly right: reads prefer values of writes that are near."""
    operations: list[Op] = []
    values: list[str | None] = [None]
    for number in range(size):
        began = chance.randrange(12)
        ended = began + chance.randrange(6)
        if chance.random() < 0.45:
            value = f"v{number}"
            values.append(value)
            operations.append(write(value, began, None if chance.random() < 0.2 else ended))
        else:
            operations.append(read(chance.choice(values[-3:]), began, ended))
    return operations


def atomic_history(chance: random.Random, size: int) -> list[Op]:
    """What a real register would answer: each operation done at one instant, and seen as lasting around it."""
    operations: list[Op] = []
    value: str | None = None
    for number in range(size):
        instant = number * 1.0
        began, ended = instant - chance.random() * 4, instant + chance.random() * 4
        if chance.random() < 0.4:
            value = f"v{number}"
            operations.append(write(value, began, None if chance.random() < 0.15 else ended))
        else:
            operations.append(read(value, began, ended))
    chance.shuffle(operations)
    return operations


# -- against the search -------------------------------------------------------------------------------------


def test_it_agrees_with_the_search_on_thousands_of_small_histories() -> None:
    chance = seeded(20)
    right = wrong = 0
    for _ in range(6000):
        operations = some_history(chance, chance.randrange(2, 9))
        expected = searched(operations)
        assert (judged(*operations).verdict is Verdict.OK) == expected, operations
        right, wrong = right + expected, wrong + (not expected)
    assert min(right, wrong) > 1000, "the histories are too much alike to show anything"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 10))
def test_it_agrees_with_the_search_whatever_the_seed(seed: int, size: int) -> None:
    operations = some_history(seeded(seed), size)
    assert (judged(*operations).verdict is Verdict.OK) == searched(operations)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60))
def test_what_a_real_register_answers_is_right(seed: int, size: int) -> None:
    assert judged(*atomic_history(seeded(seed), size)).verdict is Verdict.OK


def test_every_explanation_is_wrong_by_itself_and_small() -> None:
    """Nothing but the operations of the explanation (and the writes of its reads, left open) is illegal already."""
    chance = seeded(3)
    sizes = []
    for _ in range(4000):
        operations = some_history(chance, 8)
        why = judged(*operations).why
        if why is None:
            continue
        named = {one.value for one in why.operations if isinstance(one, Write)}
        others = [
            replace(one, ended=None)
            for one in operations
            if isinstance(one, Write) and one.value not in named
        ]
        assert not searched([*why.operations, *others]), why
        assert isinstance(why.offender, Read)
        sizes.append(len(why.operations))
    assert len(sizes) > 1000
    assert max(sizes) <= 4
    assert sum(size <= 3 for size in sizes) > 0.95 * len(sizes)


# -- what it says -------------------------------------------------------------------------------------------


def test_operations_one_after_another_are_right() -> None:
    assert (
        kind(read(None, 0, 1), write("a", 2, 3), read("a", 4, 5), write("b", 6, 7), read("b", 8, 9)) == "ok"
    )


def test_while_a_write_goes_on_both_values_may_be_read_until_one_has_read_the_new_one() -> None:
    going_on = (write("a", 0, 1), write("b", 2, 9))
    assert kind(*going_on, read("a", 3, 4), read("b", 5, 6), read("b", 7, 8)) == "ok"
    assert kind(*going_on, read("a", 3, 5), read("b", 4, 6)) == "ok"


def test_a_stale_read_is_named() -> None:
    found = judged(write("a", 0, 1), write("b", 2, 3, "node3/0"), read("a", 4, 5))
    assert found.verdict is Verdict.ILLEGAL
    assert found.why is not None
    assert found.why.kind == registers.STALE
    assert found.why.text == (
        "the read by node2/0 that gave a (4.0000 to 5.0000 s) began after the write of b by node3/0 (2.0000 to "
        "3.0000 s) was acknowledged, and that one after the write of a by node1/0 (0.0000 to 1.0000 s) had ended"
    )
    assert len(found.why.operations) == 3
    assert (found.why.fault.node, found.why.fault.at) == ("node2", 5.0)


def test_a_lost_write_is_named() -> None:
    found = judged(write("a", 0, 1), read("a", 2, 3), read(None, 4, 5))
    assert found.why is not None
    assert found.why.kind == registers.LOST
    assert found.why.text == (
        "the read by node2/0 that found nothing (4.0000 to 5.0000 s) began after the write of a by node1/0 (0.0000 to "
        "1.0000 s) was acknowledged"
    )


def test_a_read_that_goes_back_is_named() -> None:
    """The write goes on all the while: nothing was acknowledged, but somebody has seen it."""
    found = judged(write("a", 0, 1), write("b", 2, None), read("b", 3, 4), read("a", 5, 6, "node3/1"))
    assert found.why is not None
    assert found.why.kind == registers.BACK
    assert "the read by node3/1 that gave a" in found.why.text
    assert "began after the read by node2/0 that gave b" in found.why.text
    assert kind(write("b", 2, None), read("b", 3, 4), read(None, 5, 6)) == registers.BACK


def test_values_of_nobody_and_of_the_future_are_named() -> None:
    assert kind(write("a", 0, 1), read("z", 2, 3)) == registers.PHANTOM
    assert kind(read("a", 0, 1), write("a", 2, 3)) == registers.EARLY
    assert kind(read("a", 0, 1), write("a", 2, None)) == registers.EARLY


def test_two_readers_must_agree_on_the_order_of_two_writes() -> None:
    both = (write("a", 0, 9), write("b", 0, 9))
    assert kind(*both, read("a", 1, 2), read("b", 3, 4)) == "ok"
    assert kind(*both, read("a", 1, 2), read("b", 3, 4), read("a", 5, 6)) == registers.BACK


def test_every_value_that_comes_between_is_counted() -> None:
    """One value is read long after: each of the two that were written and read meanwhile contradicts it."""
    between = (write("b", 2, 3), read("b", 4, 5), write("c", 6, 7), read("c", 8, 9), write("d", 10, 11))
    assert judged(write("a", 0, 1), *between, read("a", 20, 21)).faults == 3


def test_an_unacknowledged_write_may_take_effect_late_or_never() -> None:
    opened = write("b", 2, None)
    assert kind(write("a", 0, 1), opened, read("a", 3, 4), read("a", 50, 51)) == "ok"
    assert kind(write("a", 0, 1), opened, read("a", 3, 4), read("b", 50, 51)) == "ok"
    assert kind(write("a", 0, 1), opened, write("c", 10, 11), read("c", 12, 13), read("b", 14, 15)) == "ok"
    assert kind(opened, read("b", 3, 4), write("c", 5, 6), read("b", 7, 8)) == registers.STALE


def test_uncertain_clocks_accuse_nobody() -> None:
    """Bounds that leave room for a right order are right; the same read later is wrong however wide they are."""
    wide = Write("node1/0", "node1", "x", "b", Moment(1.0, 2.0), Moment(3.0, 4.0))
    before = write("a", 0, 0.5)
    assert kind(before, wide, read("a", 3.5, 3.6)) == "ok"
    assert kind(before, replace(wide, ended=Moment.at(3.0)), read("a", 3.5, 3.6)) == registers.STALE
    late = Read("node2/0", "node2", "x", "a", Moment(4.5, 6.0), Moment(7.0, 8.0))
    assert kind(before, wide, late) == registers.STALE
    assert kind(before, wide, replace(late, began=Moment(3.9, 6.0))) == "ok"


def test_what_cannot_be_decided_is_unknown() -> None:
    twice = judged(write("a", 0, 1), write("a", 2, 3), read("a", 4, 5))
    assert twice.verdict is Verdict.UNKNOWN
    assert "written 2 times" in twice.reason
    assert judged(write("a", 2, 1)).verdict is Verdict.UNKNOWN
    assert "the clocks say nothing" in judged(read("a", 2, 1)).reason


def test_names_are_judged_each_by_itself() -> None:
    good, bad = (write("a", 0, 1), read("a", 2, 3)), (write("b", 0, 1), read(None, 2, 3))
    both = [replace(one, name="y") for one in bad]
    writes = [one for one in (*good, *both) if isinstance(one, Write)]
    reads = [one for one in (*good, *both) if isinstance(one, Read)]
    verdicts = {one.name: one.verdict for one in registers.judge_all(writes, reads)}
    assert verdicts == {"x": Verdict.OK, "y": Verdict.ILLEGAL}
    assert str(registers.judge_all(writes, reads)[1]).startswith(
        "y: illegal, an acknowledged write that is not"
    )


def test_a_saved_history_is_judged_again(tmp_path: Path) -> None:
    """From the lines of history.jsonl, among others; times are from the beginning of the run."""
    operations = [write("a", 100, 101), write("b", 102, None), read("b", 103, 104), read("a", 105, 106)]
    lines = [json.dumps({"what": "op", "op": "something else"})]
    for one in operations:
        what = registers.WRITTEN if isinstance(one, Write) else registers.GOT
        lines.append(json.dumps({"what": what, "phase": "p", **one.to_record(100.0)}))
    (found,) = registers.judge_lines(lines)
    assert (found.name, found.writes, found.reads) == ("x", 2, 2)
    assert found.why is not None
    assert (found.why.kind, found.why.fault.at) == (registers.BACK, 6.0)


@pytest.mark.parametrize("broken", [False, True])
def test_a_hundred_thousand_operations_take_seconds(broken: bool) -> None:
    operations = atomic_history(seeded(1), 100_000)
    if broken:
        last = max(one.end for one in operations if one.end < 1e9)
        operations.append(read(None, last + 1, last + 2))
    began = time.process_time()
    found = judged(*operations)
    assert found.verdict is (Verdict.ILLEGAL if broken else Verdict.OK)
    assert time.process_time() - began < 10
