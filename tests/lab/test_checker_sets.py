"""The judge of sets: whatever was acknowledged is listed from then on, and each way of being wrong is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from history_support import done, kind_of, refused, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from laila.lab.checkers import sets
from laila.lab.checkers.operations import OK, Op
from laila.lab.checkers.verdict import Judgement, Verdict


def add(element: object, start: float, end: float | None, client: str = "node1/0") -> Op:
    return done("add", start, end, client, value=element)


def listed(elements: str, start: float, end: float, client: str = "node2/0") -> Op:
    return done("list", start, end, client, result=list(elements))


def judged(*ops: Op) -> Judgement:
    return sets.judge(ops, "x", "agent")


def real_set(seed: int, size: int) -> list[Op]:
    """What a real set answers: each operation is done at one instant, and seen as lasting around it."""
    chance = seeded(seed)
    ops: list[Op] = []
    there: list[str] = []
    for number in range(size):
        start, end = number - chance.random() * 4, number + chance.random() * 4
        if chance.random() < 0.6:
            known = chance.random() < 0.9
            if known or chance.random() < 0.5:
                there.append(f"e{number}")
            ops.append(add(f"e{number}", start, end if known else None))
        else:
            shown = chance.sample(there, len(there))
            ops.append(done("list", start, end, "node2/0", result=shown))
    return ops


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 80))
def test_what_a_real_set_answers_is_right(seed: int, size: int) -> None:
    assert judged(*real_set(seed, size)).verdict is not Verdict.ILLEGAL


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_one_acknowledged_element_that_is_dropped_from_a_later_list_is_found(seed: int) -> None:
    ops = real_set(seed, 60)
    sure = {op.value for op in ops if op.op == "add" and op.outcome == OK}
    seen = {one for op in ops if op.op == "list" for one in op.result}
    everything = done("list", 100, 101, result=sorted(sure | seen))
    assert judged(*ops, everything).verdict is Verdict.OK
    dropped = seeded(seed).choice(everything.result)
    found = judged(*ops, replace(everything, result=[one for one in everything.result if one != dropped]))
    assert found.why is not None
    assert found.faults == 1
    assert f"lacks agent {dropped}," in found.why.text
    assert found.why.kind == (sets.LOST if dropped in sure else sets.GONE)


def test_an_element_that_is_lost_is_named_with_who_lacks_it() -> None:
    found = judged(add("a", 0, 1), add("b", 2, 3), listed("a", 4, 5), listed("a", 6, 7, "node3/0"))
    assert found.why is not None
    assert (found.why.kind, found.faults) == (sets.LOST, 2)
    assert found.why.text == (
        "the list of 1 by node2/0 (4.0000 to 5.0000 s) lacks agent b, and it began after the addition of b by node1/0 "
        "(2.0000 to 3.0000 s) was acknowledged"
    )
    assert [op.op for op in found.why.operations] == ["add", "list"]


@pytest.mark.parametrize(
    ("ops", "kind"),
    [
        ((add("a", 0, 1), listed("az", 2, 3)), sets.PHANTOM),
        ((add("a", 0, 1), listed("ab", 2, 3), add("b", 4, 5)), sets.EARLY),
        ((add("a", 0, 1), refused("add", 2, 3, value="b"), listed("ab", 4, 5)), sets.REFUSED),
        ((add("a", 0, 1), listed("aa", 2, 3)), sets.DOUBLE),
        ((add("a", 0, 1), add("b", 2, None), listed("ab", 3, 4), listed("a", 5, 6)), sets.GONE),
        ((add("a", 0, 1), add("b", 2, 9), listed("ab", 3, 4), listed("a", 5, 6)), sets.GONE),
    ],
)
def test_each_way_of_being_wrong_is_named(ops: tuple[Op, ...], kind: str) -> None:
    assert kind_of(judged(*ops)) == kind


@pytest.mark.parametrize(
    "ops",
    [
        (add("a", 0, 1), add("b", 2, None), listed("a", 3, 4), listed("ab", 5, 6)),
        (add("a", 0, 1), add("b", 2, None), listed("a", 3, 4), listed("a", 50, 60)),
        (add("a", 0, 1), add("b", 2, 9), listed("a", 3, 4), listed("ba", 10, 11)),
        (add("a", 0, 1), add("b", 2, 9), listed("ab", 3, 6), listed("a", 5, 7), listed("ab", 10, 11)),
        (add("a", 0, 1), refused("add", 2, 3, value="b"), refused("list", 3, 4), listed("a", 4, 5)),
    ],
)
def test_what_may_be_is_right(ops: tuple[Op, ...]) -> None:
    assert kind_of(judged(*ops)) == "ok"


def test_a_set_that_forgets_everything_is_counted_and_told_in_one_sentence() -> None:
    adds = [add(f"e{n}", n, n + 0.5) for n in range(500)]
    lists = [done("list", 600 + n, 600.5 + n, "node2/0", result=[]) for n in range(200)]
    found = judged(*adds, *lists)
    assert found.faults == 500 * 200
    assert found.why is not None
    assert "lacks agent e0" in found.why.text


def test_what_shows_nothing_is_unknown() -> None:
    for ops in (
        (),
        (add("a", 0, None), listed("a", 1, 2)),
        (add("a", 0, 1), listed("a", 2, 3), add("b", 4, 5)),
        (add("a", 0, 1), add("a", 2, 3), listed("a", 4, 5)),
        (add("a", 1, 0), listed("a", 4, 5)),
    ):
        found = judged(*ops)
        assert found.verdict is Verdict.UNKNOWN
        assert found.reason
    assert [one.verdict for one in sets.judge_all([])] == [Verdict.UNKNOWN]


def test_sets_are_judged_each_by_itself() -> None:
    good = [add("a", 0, 1), listed("a", 2, 3)]
    bad = [replace(add("b", 0, 1), key="y"), replace(listed("", 2, 3), key="y")]
    assert {one.name: one.verdict for one in sets.judge_all([*good, *bad])} == {
        "x": Verdict.OK,
        "y": Verdict.ILLEGAL,
    }


def test_elements_of_any_kind_are_told_apart() -> None:
    """1, true, 1.0 and "1" are four elements."""
    elements: list[object] = [1, True, 1.0, "1", None, ["a"], {"b": 1}]
    adds = [add(element, n, n + 0.5) for n, element in enumerate(elements)]
    all_of_them = done("list", 20, 21, "node2/0", result=elements)
    assert kind_of(judged(*adds, all_of_them)) == "ok"
    for missing in range(len(elements)):
        rest = elements[:missing] + elements[missing + 1 :]
        assert judged(*adds, replace(all_of_them, result=rest)).faults == 1
