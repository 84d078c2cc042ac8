"""Workloads on a small system that lives in this test: as it is they pass, and each way of breaking it is found."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import itertools
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from history_support import seeded

from laila.errors import BadConfig
from laila.lab import workloads
from laila.lab.checkers import (
    atomic,
    convergence,
    guarded,
    integrity,
    locks,
    peering,
    sessions,
    sets,
    swap_reasons,
    verdict,
)
from laila.lab.checkers.history import judge_history
from laila.lab.checkers.operations import FAIL, INVOKED, OK, UNKNOWN, Op
from laila.lab.checkers.verdict import Verdict
from laila.lab.workloads import Invocation, Script, Who, Workload, protocol

NODES = ("node1", "node2", "node3")


class Refused(Exception):
    """The system says no."""


class Busy(Exception):
    """Ask again in a moment."""


@dataclass
class World:
    """One store, one lock service and three nodes, with a clock of their own. `wrong` names what is broken in it."""

    chance: random.Random
    wrong: str = ""
    now: float = 0.0
    store: dict[str, Any] = field(default_factory=dict)
    older: dict[str, Any] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    token: int = 0
    ops: list[Op] = field(default_factory=list)
    closing: bool = False
    numbers: Any = field(default_factory=itertools.count)
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)

    def play(self, workload: Workload, seconds: float, clients: int = 2, unknown: float = 0.01) -> list[Op]:
        """Opening, work and closing, as the runner does it."""
        places = [(node, number) for node in NODES for number in range(clients)]
        who = [Who(f"{node}/{number}", node, number, len(places), NODES) for node, number in places]
        self._until_quiet(lambda: self._client(workload.opening(who[0]), who[0], 0.0, None))
        end = self.now + seconds
        for one in who:
            self._client(workload.script(one, self.chance), one, unknown, (workload, end))
        self._until_quiet(lambda: None)
        self.closing = True
        for one in who:
            self._client(workload.closing(one), replace(one, name=f"{one.name}:closing"), 0.0, None)
        self._until_quiet(lambda: None)
        return self.ops

    def _until_quiet(self, begin: Callable[[], None]) -> None:
        begin()
        while self.events:
            self.now, _, event = heapq.heappop(self.events)
            event()

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time, next(self.numbers), event))

    def _client(self, script: Script, who: Who, unknown: float, again: tuple[Workload, float] | None) -> None:
        def go_on(op: Op | None) -> None:
            if again is not None and self.now > again[1]:
                return
            if op is not None and op.outcome == UNKNOWN:
                if again is not None:
                    following = replace(who, incarnation=who.incarnation + 1, name=f"{who.name}'")
                    self._client(again[0].script(following, self.chance), following, unknown, again)
                return
            try:
                asked = next(script) if op is None else script.send(op)
            except StopIteration:
                return
            start = self.now + asked.pause + self.chance.random() * 0.005
            deadline = start + asked.words.get("wait", 0.0)
            self._at(start + self.chance.random() * 0.01, lambda: happen(asked, start, deadline))

        def happen(asked: Invocation, start: float, deadline: float) -> None:
            silent = self.chance.random() < unknown
            outcome, result = OK, None
            try:
                if not (silent and self.chance.random() < 0.5):
                    result = self._do(asked, who)
            except Busy:
                if self.now < deadline:
                    self._at(self.now + 0.01, lambda: happen(asked, start, deadline))
                    return
                outcome = FAIL
            except Refused:
                outcome = FAIL
            if silent and outcome == OK:
                outcome, result = UNKNOWN, None
                if asked.op == "acquire":
                    self._at(self.now + 0.5, lambda: self._died(who, asked.key))
                elif who.name in self.owners.values():
                    self._at(self.now + 0.5, lambda: self._died(who, ""))
            end = self.now + self.chance.random() * 0.01
            words = protocol.request(asked)
            assert "value" not in words or words["value"] == asked.value
            shown = math.inf if outcome == UNKNOWN else end
            op = Op(who.name, who.node, asked.op, asked.key, asked.value, result, start, shown, outcome)
            self.ops.append(op)
            self._at(end, lambda: go_on(op))

        self._at(self.now, lambda: go_on(None))

    def _died(self, who: Who, key: str) -> None:
        """Who is gone has no lock any more."""
        for name in [name for name, owner in self.owners.items() if owner == who.name and key in ("", name)]:
            del self.owners[name]

    def _do(self, asked: Invocation, who: Who) -> Any:
        answer = getattr(self, f"_{asked.op}")(asked, who)
        return protocol.result(asked.op, json.loads(json.dumps(answer)))

    def _read(self, asked: Invocation, who: Who) -> dict[str, Any]:
        value = self.store.get(asked.key)
        if self.wrong == "stale" and who.node == "node3" and self.chance.random() < 0.1:
            value = self.older.get(asked.key)
        if self.wrong == "damaged" and isinstance(value, str) and self.chance.random() < 0.02:
            value = value[:-3] + "zzz"
        return {"value": value}

    def _write(self, asked: Invocation, who: Who) -> dict[str, Any]:
        if self.wrong == "dirty" and self.chance.random() < 0.1:
            self.store[asked.key] = asked.value
            raise Refused
        if self.wrong == "forgetful" and self.chance.random() < 0.05:
            return {}
        self.older[asked.key] = self.store.get(asked.key)
        self.store[asked.key] = asked.value
        return {}

    def _cas(self, asked: Invocation, who: Who) -> dict[str, Any]:
        old, new = asked.value
        fits = self.store.get(asked.key) == old
        if self.wrong == "generous" and self.chance.random() < 0.05:
            return {"swapped": True} if not fits else self._swapped(asked.key, new)
        return self._swapped(asked.key, new) if fits else {"swapped": False}

    def _swapped(self, key: str, new: Any) -> dict[str, Any]:
        self.store[key] = new
        return {"swapped": True}

    def _acquire(self, asked: Invocation, who: Who) -> dict[str, Any]:
        if asked.key in self.owners and not (self.wrong == "open" and self.chance.random() < 0.05):
            raise Busy
        self.owners[asked.key] = who.name
        if not (self.wrong == "tokens" and self.chance.random() < 0.05):
            self.token += 1
        return {"token": self.token}

    def _release(self, asked: Invocation, who: Who) -> dict[str, Any]:
        if self.owners.get(asked.key) == who.name:
            del self.owners[asked.key]
        return {}

    def _add(self, asked: Invocation, who: Who) -> dict[str, Any]:
        elements = self.store.setdefault(asked.key, [])
        if not (self.wrong == "forgetful" and self.chance.random() < 0.05):
            elements.append(asked.value)
        return {}

    def _list(self, asked: Invocation, who: Who) -> dict[str, Any]:
        return {"values": list(self.store.get(asked.key, []))}

    def _peers(self, asked: Invocation, who: Who) -> dict[str, Any]:
        hidden = {"one-way": ("node2", "node1"), "cut": ("node2", "node1")}.get(self.wrong)
        if self.wrong == "one-way" and self.closing:
            hidden = None
        return {"peers": [node for node in NODES if node != who.node and (who.node, node) != hidden]}

    def _digest(self, asked: Invocation, who: Who) -> dict[str, Any]:
        told = {key: hashlib.sha256(repr(value).encode()).hexdigest() for key, value in self.store.items()}
        if self.wrong == "apart" and who.node == "node3":
            told.popitem()
        return {"digests": told}


def judged(name: str, wrong: str, seed: int, seconds: float = 4.0, **options: Any) -> list[verdict.Judgement]:
    workload = workloads.make(name, **options)
    return workload.judge(World(seeded(seed), wrong).play(workload, seconds))


OPTIONS: dict[str, dict[str, Any]] = {"peering": {"grace": 2.0}, "convergence": {"within": 2.0}}


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_a_right_system_passes_whatever_the_seed(name: str) -> None:
    for seed in range(3):
        found = judged(name, "", seed, **OPTIONS.get(name, {}))
        assert found
        assert verdict.worst(found) is Verdict.OK, [str(one) for one in found]


@pytest.mark.parametrize(
    ("name", "wrong", "kinds"),
    [
        ("register", "stale", {atomic.zones.STALE, atomic.zones.BACK, atomic.zones.LOST}),
        ("register", "forgetful", {atomic.zones.STALE, atomic.zones.LOST}),
        ("register", "dirty", {atomic.REFUSED}),
        ("register", "damaged", {integrity.DAMAGED, atomic.zones.PHANTOM}),
        (
            "cas",
            "generous",
            {swap_reasons.READ_WRONG, swap_reasons.SWAP_WRONG, swap_reasons.TWICE, swap_reasons.PHANTOM},
        ),
        ("cas", "stale", {swap_reasons.READ_WRONG, swap_reasons.SWAP_WRONG, swap_reasons.KEPT_WRONG}),
        ("lock", "open", {locks.OVERLAP, locks.UNRISEN, guarded.LOST}),
        ("lock", "tokens", {locks.UNRISEN}),
        ("lock", "forgetful", {guarded.LOST}),
        ("lock", "dirty", {guarded.REFUSED}),
        ("set", "forgetful", {sets.LOST}),
        ("registrations", "forgetful", {sets.LOST}),
        ("sessions", "stale", {sessions.BACKWARDS, sessions.OWN}),
        ("sessions", "forgetful", {sessions.OWN, sessions.BACKWARDS}),
        ("peering", "one-way", {peering.ONE_SIDED}),
        ("peering", "cut", {peering.ONE_SIDED, peering.DOWN}),
        ("convergence", "apart", {convergence.DIFFERENT}),
    ],
)
def test_a_broken_system_is_found(name: str, wrong: str, kinds: set[str]) -> None:
    for seed in range(2):
        found = judged(name, wrong, seed, **OPTIONS.get(name, {}))
        illegal = {one.why.kind for one in found if one.why is not None}
        assert illegal, [str(one) for one in found]
        assert illegal <= kinds


def test_what_is_judged_from_a_saved_history_is_the_same() -> None:
    lines, expected = [], []
    for name in workloads.WORKLOADS:
        workload = workloads.make(name, **OPTIONS.get(name, {}))
        ops = World(seeded(7), "stale").play(workload, 3.0)
        kept = [Op.from_record(json.loads(json.dumps(op.to_record()))) for op in ops]
        expected += [replace(one, workload=name) for one in workload.judge(kept)]
        lines.append(json.dumps({"what": "workload", "workload": name, "options": workload.settings()}))
        lines += [json.dumps({"what": INVOKED, "workload": name, **op.to_record()}) for op in ops]
    assert judge_history(lines) == expected
    assert {one.verdict for one in expected} == {Verdict.OK, Verdict.ILLEGAL}


# -- generators ---------------------------------------------------------------------------------------------

WHO = Who("node1/0", "node1", 0, 6, NODES)


def asked(workload: Workload, seed: int, count: int, who: Who = WHO) -> list[Invocation]:
    """What a client asks for where everything goes through and nothing is found."""
    found: list[Invocation] = []
    script = workload.script(who, seeded(seed))
    invocation = next(script)
    while len(found) < count:
        found.append(invocation)
        result = {"list": [], "peers": [], "acquire": 1, "cas": True}.get(invocation.op)
        what = (who.name, who.node, invocation.op, invocation.key, invocation.value, result)
        invocation = script.send(Op(*what, len(found), len(found) + 0.5))
    script.close()
    return found


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_a_seed_repeats_what_is_asked_and_another_does_not(name: str) -> None:
    workload = workloads.make(name)
    assert asked(workload, 1, 50) == asked(workload, 1, 50)
    assert asked(workload, 1, 50) != asked(workload, 2, 50)


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_a_workload_asks_only_for_what_it_says(name: str) -> None:
    workload = workloads.make(name)
    known = {*workload.ops, *workload.also}
    everything = [*asked(workload, 3, 200), *workload.opening(WHO)]
    assert {one.op for one in everything} <= known <= set(protocol.OPS)
    assert set(workload.ops) - {one.op for one in everything} <= {"digest"}, (
        "digests are asked for in the end"
    )
    assert all(one.pause >= 0 for one in everything)


@pytest.mark.parametrize(
    "name", ["register", "cas", "lock", "set", "registrations", "sessions", "convergence"]
)
def test_runs_with_other_prefixes_never_meet(name: str) -> None:
    keys = [
        {one.key for one in asked(workloads.make(name, prefix=prefix), 1, 100)} for prefix in ("a-", "b-")
    ]
    assert keys[0].isdisjoint(keys[1])
    assert {key.removeprefix("a-") for key in keys[0]} == {key.removeprefix("b-") for key in keys[1]}


@pytest.mark.parametrize(
    "name", ["register", "cas", "lock", "set", "registrations", "sessions", "convergence"]
)
def test_no_value_is_written_twice_by_any_client_or_incarnation(name: str) -> None:
    workload = workloads.make(name)
    values: list[Any] = []
    for number, incarnation in itertools.product(range(2), range(3)):
        who = Who(f"node1/{number}", "node1", number, 6, NODES, incarnation)
        for one in asked(workload, 5, 300, who):
            if one.op in ("write", "add"):
                values.append(one.value)
            elif one.op == "cas":
                values.append(one.value[1])
    assert len(values) > 50
    assert len(set(values)) == len(values)


def test_a_lock_counts_only_where_the_client_can_read_and_write() -> None:
    workload = workloads.make("lock")
    assert {one.op for one in asked(workload, 1, 50)} == {"acquire", "read", "write", "release"}
    workload.offered = ("acquire", "release", "read")
    assert {one.op for one in asked(workload, 1, 50)} == {"acquire", "release"}
    workload.offered = protocol.OPS
    assert "write" in {one.op for one in asked(workload, 1, 50)}
    assert {one.op for one in asked(workloads.make("lock", counter=False), 1, 50)} == {"acquire", "release"}


def test_a_lock_that_was_not_got_is_not_let_go() -> None:
    script = workloads.make("lock").script(WHO, seeded(1))
    first = next(script)
    following = script.send(
        Op("node1/0", "node1", "acquire", first.key, None, None, 0, 1, FAIL, "LockTimeout")
    )
    assert (first.op, following.op) == ("acquire", "acquire")
    assert first.words == {"wait": 5.0}
    assert first.timeout > 5.0


def test_a_writer_of_a_later_incarnation_goes_on_with_greater_numbers() -> None:
    workload = workloads.make("sessions")
    numbers = []
    for incarnation in range(3):
        who = replace(WHO, incarnation=incarnation)
        numbers += [one.value for one in asked(workload, 1, 100, who) if one.op == "write"]
    assert numbers == sorted(numbers)
    second = replace(WHO, number=1)
    assert {one.op for one in asked(workload, 1, 100, second)} == {"read"}


# -- by name ------------------------------------------------------------------------------------------------


def test_what_does_not_exist_is_refused_with_what_does() -> None:
    with pytest.raises(BadConfig, match="unknown workload 'lok'; there are register, cas, lock, set"):
        workloads.make("lok")
    with pytest.raises(BadConfig, match="lock has no option hodl; it has prefix, keys, wait, hold"):
        workloads.make("lock", hodl=1)


def test_options_are_taken_from_text_and_from_json() -> None:
    made = workloads.make("lock", wait="2.5", keys="3", counter="false", lease=4, prefix="p-")
    told = {"prefix": "p-", "wait": 2.5, "keys": 3, "counter": False, "lease": 4.0}
    assert made.settings() == workloads.defaults("lock") | told
    for name in workloads.WORKLOADS:
        settings = workloads.make(name).settings()
        assert settings == workloads.defaults(name)
        assert workloads.make(name, **json.loads(json.dumps(settings))).settings() == settings


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("register", {"ratio": 1.5}),
        ("register", {"keys": 0}),
        ("register", {"keys": 2.5}),
        ("register", {"keys": True}),
        ("register", {"pause": float("nan")}),
        ("register", {"pause": "soon"}),
        ("register", {"prefix": 3}),
        ("cas", {"writes": 0.6, "swaps": 0.5}),
        ("cas", {"points": 0}),
        ("lock", {"counter": "maybe"}),
        ("lock", {"hold": -1}),
        ("set", {"most": 0}),
        ("registrations", {"ratio": 0}),
        ("sessions", {"ratio": None}),
        ("peering", {"every": 1.0, "grace": 1.0}),
        ("convergence", {"within": 0}),
    ],
)
def test_options_that_cannot_be_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(BadConfig, match=name):
        workloads.make(name, **options)


def test_a_workload_that_did_nothing_is_unknown() -> None:
    for name in workloads.WORKLOADS:
        found = workloads.make(name).judge([])
        assert found
        assert {one.verdict for one in found} == {Verdict.UNKNOWN}
        assert all(one.reason for one in found)


# -- the protocol -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("invocation", "words"),
    [
        (Invocation("read", "k"), {"key": "k"}),
        (Invocation("write", "k", [1]), {"key": "k", "value": [1]}),
        (Invocation("write", "k", None, words={"token": 7}), {"key": "k", "value": None, "token": 7}),
        (Invocation("cas", "k", ["a", "b"]), {"key": "k", "old": "a", "new": "b"}),
        (Invocation("acquire", "k", words={"wait": 5.0}), {"key": "k", "wait": 5.0}),
        (Invocation("release", "k"), {"key": "k"}),
        (Invocation("add", "k", "e"), {"key": "k", "value": "e"}),
        (Invocation("list", "k"), {"key": "k"}),
        (Invocation("peers", "during"), {}),
        (Invocation("digest", "all"), {}),
    ],
)
def test_requests_have_the_words_that_are_documented(invocation: Invocation, words: dict[str, Any]) -> None:
    assert protocol.request(invocation) == words


@pytest.mark.parametrize(
    ("op", "answer", "result"),
    [
        ("read", {"value": None}, None),
        ("read", {"value": [1], "more": 2}, [1]),
        ("write", {}, None),
        ("cas", {"swapped": True}, True),
        ("cas", {"swapped": False}, False),
        ("acquire", {"token": 7}, 7),
        ("acquire", {"token": None}, None),
        ("release", {}, None),
        ("add", {}, None),
        ("list", {"values": ["a"]}, ["a"]),
        ("peers", {"peers": ["b", "a"]}, ["a", "b"]),
        ("digest", {"digests": {"a": "00"}}, {"a": "00"}),
    ],
)
def test_answers_are_understood(op: str, answer: dict[str, Any], result: Any) -> None:
    assert protocol.result(op, answer) == result


@pytest.mark.parametrize(
    ("op", "answer"),
    [
        ("read", {}),
        ("read", None),
        ("write", ["done"]),
        ("write", "ok"),
        ("cas", {}),
        ("cas", {"swapped": 1}),
        ("cas", {"swapped": "yes"}),
        ("acquire", {}),
        ("acquire", {"token": "7"}),
        ("acquire", {"token": True}),
        ("acquire", {"token": 7.0}),
        ("list", {"values": "abc"}),
        ("list", {"values": None}),
        ("peers", {"peers": ["a", 1]}),
        ("peers", {"peers": {"a": 1}}),
        ("digest", {"digests": {"a": 1}}),
        ("digest", {"digests": []}),
        ("fly", {}),
    ],
)
def test_rubbish_is_no_answer(op: str, answer: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        protocol.result(op, answer)


def test_an_operation_that_nobody_knows_is_refused() -> None:
    with pytest.raises(BadConfig, match="unknown operation 'fly'; there are read, write, cas"):
        protocol.request(Invocation("fly", "k"))


def test_the_page_names_every_option_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "workloads.md").read_text()
    page = page.partition("options and their defaults")[2].partition("###")[0]
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    told = {name: text for names, text in rows for name in re.findall(r"`(\w+)`", names)}
    for name, kind in workloads.WORKLOADS.items():
        for option in dataclasses.fields(kind):  # type: ignore[arg-type]  # every workload is a dataclass
            if option.name not in ("prefix", "offered"):
                shown = re.search(rf"`{option.name}(?:=([\w.]+))?`", told[name])
                assert shown is not None, f"{name}: {option.name}"
                assert shown[1] is None or json.loads(shown[1]) == option.default
