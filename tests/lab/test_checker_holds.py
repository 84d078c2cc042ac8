"""The judge of holds: right histories pass whatever their shape, and each way of being wrong is named."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laila.lab.checkers import holds as judge
from laila.lab.checkers.holds import Hold, Seen
from laila.lab.clocks import Moment


def exclusive(
    token: int, got: float, gave: float, number: int, *, node: str = "a", asked: float | None = None
) -> Hold:
    """A holder that found what token - 1 left, and wrote `number`."""
    found = Seen(number - 1, token - 1 if number > 1 else 0)
    moments = (Moment.at(got - 0.1 if asked is None else asked), Moment.at(got), Moment.at(gave))
    return Hold(f"{node}/0", node, token, *moments, found=found, left=found, wrote=number)


def reader(
    token: int, got: float, gave: float, seen: Seen, *, node: str = "a", asked: float | None = None
) -> Hold:
    moments = (Moment.at(got - 0.1 if asked is None else asked), Moment.at(got), Moment.at(gave))
    return Hold(f"{node}/1", node, token, *moments, shared=True, found=seen, left=seen)


RIGHT = [
    exclusive(1, 1.0, 1.2, 1),
    exclusive(2, 1.3, 1.5, 2, node="b"),
    reader(2, 1.6, 1.9, Seen(2, 2)),
    reader(2, 1.7, 1.8, Seen(2, 2), node="b"),
    exclusive(3, 2.0, 2.2, 3, node="c"),
]


def kinds(holds: list[Hold]) -> set[str]:
    return {fault.kind for fault in judge.judge(holds)}


def changed(turn: int, **changes: object) -> list[Hold]:
    return [replace(hold, **changes) if n == turn else hold for n, hold in enumerate(RIGHT)]  # type: ignore[arg-type]  # fields of Hold


def test_holds_one_after_another_are_right() -> None:
    assert judge.judge(RIGHT) == []


@pytest.mark.parametrize(
    ("holds", "kind"),
    [
        (changed(1, got=Moment.at(1.1)), judge.OVERLAP),
        (changed(2, got=Moment.at(1.4)), judge.OVERLAP),
        (changed(4, got=Moment.at(1.85)), judge.OVERLAP),
        (changed(1, token=1), judge.UNRISEN),
        (changed(4, token=2), judge.UNRISEN),
        (changed(4, token=1, asked=Moment.at(1.95)), judge.UNRISEN),
        (changed(2, token=1), judge.OTHER_THAN_LAST),
        (changed(2, token=9), judge.OTHER_THAN_LAST),
        (changed(1, left=Seen(1, 3)), judge.INTRUDER),
        (changed(3, left=Seen(3, 3)), judge.INTRUDER),
        (changed(1, found=None), judge.TORN),
        (changed(1, wrote=1), judge.LOST),
        (changed(4, found=Seen(1, 1), left=Seen(1, 1)), judge.OVERTAKEN),
        (changed(4, found=Seen(7, 2), left=Seen(7, 2)), judge.OVERTAKEN),
        (changed(1, found=Seen(1, 9), left=Seen(1, 9)), judge.UNRISEN),
        (changed(2, found=Seen(2, 3), left=Seen(2, 3)), judge.OTHER_THAN_LAST),
    ],
)
def test_each_way_of_being_wrong_is_named(holds: list[Hold], kind: str) -> None:
    assert kind in kinds(holds)


def test_the_overlap_says_who_when_and_for_how_long() -> None:
    first, second = exclusive(1, 1.0, 1.5, 1), exclusive(2, 1.25, 2.0, 2, node="b")
    (fault,) = judge.overlaps([second, first])
    assert (fault.at, fault.node) == (1.25, "b")
    assert "a/0 (token 1, 1.0000 to 1.5000 s) and b/0 (token 2, 1.2500 to 2.0000 s), for 250.000 ms" in str(
        fault
    )


def test_a_long_hold_is_compared_with_all_that_came_into_it() -> None:
    long = exclusive(1, 1.0, 9.0, 1)
    short = [exclusive(n, n, n + 0.5, n, node="b") for n in range(2, 6)]
    assert judge.overlapping([*short, long]) == [(long, hold) for hold in short]


def test_shared_holds_may_be_together_but_not_with_an_exclusive_one() -> None:
    together = [reader(1, 1.0, 2.0, Seen(0, 0)), reader(1, 1.5, 2.5, Seen(0, 0), node="b")]
    assert judge.overlaps(together) == []
    assert len(judge.overlaps([*together, exclusive(2, 2.2, 2.3, 1)])) == 1


def test_what_is_not_sure_is_no_fault() -> None:
    """Another machine's clock is known to 0.3 s: an overlap of less may be none."""
    far = exclusive(2, 1.4, 1.8, 2, node="b")
    blurred = replace(far, got=Moment(1.1, 1.5), gave=Moment(1.7, 2.0))
    before = exclusive(1, 1.0, 1.3, 1)
    assert judge.overlaps([before, blurred]) == []
    assert judge.overlaps([replace(before, gave=Moment.at(1.6)), blurred])
    assert blurred.sure == (1.5, 1.7)
    assert replace(blurred, got=Moment(1.1, 1.9)).sure is None


def test_a_killed_holders_write_may_be_there_or_not() -> None:
    killed = Hold("a/0", "a", 2, Moment.at(1.25), Moment.at(1.3), Moment(1.4, 1.5), killed=True)
    first, heir = exclusive(1, 1.0, 1.2, 1), exclusive(3, 1.6, 1.7, 2)
    found = {"found": Seen(1, 1), "left": Seen(1, 1)}
    assert judge.judge([first, killed, replace(heir, **found)]) == []  # type: ignore[arg-type]  # fields of Hold
    assert judge.judge([first, killed, exclusive(3, 1.6, 1.7, 3)]) == []
    assert kinds([first, killed, replace(heir, asked=Moment.at(1.2), got=Moment.at(1.35), **found)]) == {
        judge.OVERLAP
    }  # type: ignore[arg-type]  # fields of Hold


def test_only_waiting_for_another_node_counts_as_contention() -> None:
    holds = [
        exclusive(1, 1.0, 2.0, 1),
        exclusive(2, 2.1, 2.2, 2, node="b", asked=1.5),
        exclusive(3, 2.3, 2.4, 3, node="b", asked=2.15),
        exclusive(4, 3.0, 3.1, 4, node="a", asked=2.5),
    ]
    assert judge.contended(holds) == {"b": 1}
    assert judge.acquisitions(holds) == {"a": 2, "b": 2}
    assert judge.last_number(holds) == 4


@given(st.integers(0, 2**32), st.integers(2, 60))
def test_every_right_history_passes_and_survives_the_file(seed: int, count: int) -> None:
    holds = history(seed, count)
    assert judge.judge(holds) == []
    again = [Hold.from_record(hold.to_record(0.0)) for hold in holds]
    assert judge.judge(again) == []
    assert [hold.token for hold in again] == [hold.token for hold in holds]


@given(st.integers(0, 2**32), st.integers(4, 60))
def test_a_lock_that_lets_one_more_in_is_caught_wherever_it_does(seed: int, count: int) -> None:
    holds = history(seed, count)
    chance = random.Random(seed)  # noqa: S311  repeatable on purpose
    turn = chance.randrange(len(holds))
    start, end = holds[turn].got.latest, holds[turn].gave.earliest
    intruder = exclusive(10**6, (start + end) / 2, end + 0.001, 10**6, node="z", asked=start)
    assert judge.OVERLAP in kinds([*holds, intruder])


@given(st.integers(0, 2**32), st.integers(4, 60))
def test_a_token_that_was_given_before_is_caught(seed: int, count: int) -> None:
    holds = history(seed, count)
    writers = [n for n, hold in enumerate(holds) if not hold.shared]
    if len(writers) < 2:
        return
    turn = random.Random(seed).randrange(1, len(writers))  # noqa: S311  repeatable on purpose
    before = holds[writers[turn - 1]].token
    mutated = [replace(hold, token=before) if n == writers[turn] else hold for n, hold in enumerate(holds)]
    assert judge.UNRISEN in kinds(mutated)


def history(seed: int, count: int) -> list[Hold]:
    """What a right lock may do: holders of three nodes take turns, some shared, each asking before or while others
    hold."""
    chance = random.Random(seed)  # noqa: S311  repeatable on purpose
    now, token, number, holds = 1.0, chance.randrange(5), 0, []
    seen = Seen(0, 0)
    for _ in range(count):
        node = chance.choice("abc")
        asked, got = now - chance.random(), now + chance.random() * 0.01
        gave = got + chance.random() * 0.01 + 0.001
        if seen.number and chance.random() < 0.3:
            holds.append(reader(token, got, gave, seen, node=node, asked=asked))
        else:
            token += chance.randrange(1, 4)
            number += 1
            moments = (Moment.at(asked), Moment.at(got), Moment.at(gave))
            holds.append(Hold(f"{node}/0", node, token, *moments, found=seen, left=seen, wrote=number))
            seen = Seen(number, token)
        now = gave + chance.random() * 0.01
    return holds
