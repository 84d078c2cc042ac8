"""Comparing replicas by their digest trees: what is found, and how little is asked for."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

import pytest

from laila.artifacts.vouchers import Pair
from laila.errors import StorageError
from laila.replication.branches import Tree
from laila.replication.calls import Crowd
from laila.replication.copies import Copy
from laila.replication.replica import Branch, Health, Listing, Replica, Stamp
from laila.replication.tags import Found, Stand, Tag, Unsure
from laila.replication.walk import BATCH, Difference, Walk

WRITER = "a" * 64


def stand(name: str, sequence: int, *, gone: bool = False) -> Stand:
    digest = hashlib.sha256(f"{name} {sequence}".encode()).hexdigest()
    return Stand(Tag(sequence, WRITER, digest), digest, gone, 1000, 1.0)


class Wood(Replica):
    """Nothing but a digest tree, the real one."""

    def __init__(self, entries: Mapping[str, Found]) -> None:
        self.where = "memory"
        self.tree = Tree(entries.items())
        self.asked: list[int] = []
        self.fails_at: int | None = None
        self.open = threading.Event()
        self.open.set()

    def branches(self, prefixes: Sequence[str]) -> list[Branch]:
        self.asked.append(len(prefixes))
        if self.fails_at is not None and len(self.asked) > self.fails_at:
            raise StorageError("the disk is gone")
        self.open.wait(60)
        return [self.tree.branch(prefix) for prefix in prefixes]

    def _none(self) -> NoReturn:
        raise AssertionError("comparing asks for branches only")

    def stamp(self) -> Stamp:
        self._none()

    def mark(self, stamp: Stamp, before: Stamp | None = None) -> bool:
        self._none()

    def vouchers(self) -> list[Pair]:
        self._none()

    def vouch(self, vouchers: Collection[Pair]) -> None:
        self._none()

    def membership(self) -> bytes | None:
        self._none()

    def learn(self, document: bytes) -> None:
        self._none()

    def ballot(self) -> bytes | None:
        self._none()

    def cast(self, before: bytes | None, after: bytes) -> bool:
        self._none()

    def look(self, names: Sequence[str], number: int) -> list[Found]:
        self._none()

    def fetch(self, name: str, number: int) -> Copy | None:
        self._none()

    def put(self, copy: Copy, number: int) -> Stand:
        self._none()

    def names(self, number: int) -> Listing:
        self._none()

    def check(self, name: str, number: int) -> Health:
        self._none()

    def distrust(self, name: str, reason: str) -> None:
        self._none()

    def settle(self, name: str, tag: Tag | None, mark: str) -> None:
        self._none()

    def scrub(self) -> Iterator[tuple[str, Health]]:
        self._none()

    def close(self) -> None:
        self.open.set()


@contextmanager
def crowd_of(*woods: Wood) -> Iterator[tuple[Crowd, list[str]]]:
    replicas = {"abcdef"[place]: wood for place, wood in enumerate(woods)}
    crowd = Crowd(replicas)
    try:
        yield crowd, list(replicas)
    finally:
        for wood in woods:
            wood.close()
        crowd.close()


def compared(*woods: Wood, **options: float) -> tuple[dict[str, dict[str, Found]], Walk]:
    with crowd_of(*woods) as (crowd, ids):
        walk = Walk(crowd, ids, timeout=options.get("timeout", 60.0), batch=int(options.get("batch", BATCH)))
        return {one.name: dict(one.found) for one in walk}, walk


def names(count: int) -> dict[str, Found]:
    return {f"name-{number}": stand(f"name-{number}", 1) for number in range(count)}


def test_replicas_that_agree_cost_one_exchange_each() -> None:
    entries = names(10_000)
    found, walk = compared(*(Wood(entries) for _ in range(3)))
    assert found == {}
    assert walk.exchanges == {"a": 1, "b": 1, "c": 1}
    assert (walk.entries, walk.names, walk.share) == (0, 10_000, 1.0)


def test_three_of_100_000_names_are_found_by_a_look_at_a_few_hundred() -> None:
    entries = names(100_000)
    woods = [Wood(entries) for _ in range(3)]
    newer, gone = stand("name-5", 2), stand("name-77777", 2, gone=True)
    woods[0].tree.set("name-5", newer)
    woods[1].tree.set("name-40000", None)
    woods[2].tree.set("name-77777", gone)
    found, walk = compared(*woods)
    assert found == {
        "name-5": {"a": newer, "b": entries["name-5"], "c": entries["name-5"]},
        "name-40000": {"a": entries["name-40000"], "b": None, "c": entries["name-40000"]},
        "name-77777": {"a": entries["name-77777"], "b": entries["name-77777"], "c": gone},
    }
    assert walk.entries < 300
    assert max(walk.exchanges.values()) <= 4
    assert walk.share == pytest.approx(1.0)


def test_a_blank_replica_is_asked_no_more_than_once() -> None:
    entries = names(5_000)
    found, walk = compared(Wood(entries), Wood({}), Wood(entries))
    assert found == {name: {"a": one, "b": None, "c": one} for name, one in entries.items()}
    assert walk.exchanges["b"] == 1
    assert walk.exchanges["a"] < 30
    assert walk.share == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(12))
def test_it_finds_what_a_comparison_of_all_names_finds(seed: int) -> None:
    """Also where a part is small on one replica and large on another."""
    chance = random.Random(seed)  # noqa: S311  # to be had again
    base = names(chance.choice([0, 5, 32, 33, 40, 300, 2000]))
    sides: list[dict[str, Found]] = []
    for _ in range(chance.choice([2, 3, 5])):
        side = dict(base)
        for _ in range(chance.choice([0, 1, 10, 400])):
            name = f"name-{chance.randrange(2500)}"
            one: Found = chance.choice([stand(name, 2), stand(name, 3, gone=True), Unsure("damaged"), None])
            side.pop(name, None)
            if one is not None:
                side[name] = one
        sides.append(side)
    expected: dict[str, dict[str, Found]] = {}
    for name in {name for side in sides for name in side}:
        have = {"abcdef"[place]: side.get(name) for place, side in enumerate(sides)}
        if len(set(have.values())) > 1 or any(isinstance(one, Unsure) for one in have.values()):
            expected[name] = have
    for batch in (1, BATCH):
        found, walk = compared(*(Wood(side) for side in sides), batch=batch)
        assert found == expected
        assert not walk.unreachable


def test_what_all_are_unsure_of_is_a_difference() -> None:
    found, _ = compared(Wood({"plan": Unsure("damaged")}), Wood({"plan": Unsure("damaged")}))
    assert list(found) == ["plan"]


def test_an_exchange_is_bounded() -> None:
    woods = [Wood(names(20_000)), Wood({})]
    _, walk = compared(*woods)
    assert max(woods[0].asked) <= BATCH
    assert walk.exchanges["a"] == len(woods[0].asked)


@pytest.mark.parametrize("after", [0, 1])
def test_one_that_cannot_be_asked_is_left_out(after: int) -> None:
    entries = names(3_000)
    woods = [Wood(entries), Wood(entries), Wood({**entries, "more": stand("more", 1)})]
    woods[1].fails_at = after
    found, walk = compared(*woods)
    assert {name: set(have) for name, have in found.items()} == {"more": {"a", "c"}}
    assert [str(error) for error in walk.unreachable.values()] == ["the disk is gone"]
    assert walk.asked == {"a", "c"}


def test_one_that_hangs_is_left_out_after_its_time() -> None:
    woods = [Wood(names(10)), Wood(names(10)), Wood(names(11))]
    woods[1].open.clear()
    found, walk = compared(*woods, timeout=3.0)
    assert list(found) == ["name-10"]
    assert "no answer within 3 s" in str(walk.unreachable["b"])


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [Branch("ab", bytes(16), 0)],
        [Branch("", bytes(16), 1, branches=b"short")],
        [Branch("", bytes(16), 0), Branch("", bytes(16), 0)],
    ],
)
def test_an_answer_that_cannot_be_leaves_its_sender_out(answer: list[Branch]) -> None:
    class Liar(Wood):
        def branches(self, prefixes: Sequence[str]) -> list[Branch]:
            return answer

    found, walk = compared(Liar({}), Wood(names(5)), Wood(names(6)))
    assert list(found) == ["name-5"]
    assert list(walk.unreachable) == ["a"]


def test_names_of_another_part_are_no_answer() -> None:
    class Liar(Wood):
        def branches(self, prefixes: Sequence[str]) -> list[Branch]:
            if prefixes == [""]:
                return super().branches(prefixes)
            entries = tuple(names(3).items())
            return [Branch(prefix, b"?" * 16, 3, entries=entries) for prefix in prefixes]

    found, walk = compared(Liar(names(500)), Wood(names(499)), Wood(names(499)))
    assert found == {}
    assert list(walk.unreachable) == ["a"]


def test_it_can_be_given_up() -> None:
    over = threading.Event()
    woods = [Wood(names(5_000)), Wood({})]
    with crowd_of(*woods) as (crowd, ids):
        walk = Walk(crowd, ids, stop=over.is_set)
        first: Difference | None = next(iter(walk))
        assert first is not None
        over.set()
        asked = len(woods[0].asked)
        assert not list(walk)
        assert len(woods[0].asked) == asked
        assert walk.share < 1
