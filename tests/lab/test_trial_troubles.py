"""Clients that die while things break: a fault excuses what it can explain, and nothing else."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from laila.errors import LabError
from laila.lab import workloads
from laila.lab.checkers.operations import OK, UNKNOWN
from laila.lab.checkers.verdict import Verdict
from laila.lab.faults import Bite, Scene, schedule
from laila.lab.history import History
from laila.lab.trials import trial
from laila.lab.trials.invoking import Answer, Invoker
from laila.lab.trials.trial import Plan, Trial, Unrecovered
from laila.lab.trials.turns import Turns
from laila.lab.workloads.base import Invocation

LASTS = 0.15
NOW = {"faults": 0, "broken": False}
"""How many faults have struck, and whether one lasts."""


@dataclass
class Program(Invoker):
    """The program of a client of a store in this process. `dies(answered)`: whether it ends instead of answering, when
    it has answered so often.
    """

    data: dict[str, Any]
    lock: threading.Lock
    dies: Callable[[int], bool]
    refused: Callable[[], bool] = lambda: False
    """Whether the system refuses, while the program lives."""
    answered: int = 0
    dead: bool = field(default=False)

    def invoke(self, invocation: Invocation, timeout: float) -> Answer:
        began = time.monotonic()
        if self.dies(self.answered):
            self.dead = True
            return Answer(UNKNOWN, began, time.monotonic(), error="ClientGone", died="out of cheese")
        if self.refused():
            return Answer(UNKNOWN, began, time.monotonic(), error="QuorumLost: 1 of 3")
        self.answered += 1
        with self.lock:
            if invocation.op == "write":
                self.data[invocation.key] = invocation.value
            result = self.data.get(invocation.key) if invocation.op == "read" else None
        return Answer(OK, began, time.monotonic(), result)

    @property
    def gone(self) -> bool:
        return self.dead

    def close(self) -> None: ...


class Strikes(Turns):
    """Breaks nothing, and says that it did: no driver is needed."""

    def play(self, specs: Sequence[Any]) -> None:
        began = time.monotonic()
        NOW.update(faults=NOW["faults"] + 1, broken=True)
        time.sleep(LASTS)
        NOW["broken"] = False
        healed = time.monotonic()
        self.bites.append(Bite("pause@east", "pause", ("east",), began, began, healed, healed, "", ""))
        self.enough("after pause", healed, False)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trial]:
    """A trial with a dense schedule, whose client beside west dies, or is refused, when it is told to."""
    monkeypatch.setattr(trial, "Turns", Strikes)
    monkeypatch.setattr(trial, "_REFUSALS", 1.0)
    monkeypatch.setattr(trial, "_BRIEFLY", 0.5)
    NOW.update(faults=0, broken=False)

    def played(
        dies: Callable[[int], bool] = lambda answered: False, refused: Callable[[], bool] = lambda: False
    ) -> Trial:
        data: dict[str, Any] = {}
        lock = threading.Lock()
        plan = Plan(
            (workloads.make("register"),),
            schedule("pause,pause,pause"),
            seed=3,
            clients=1,
            calm=0.2,
            patience=2.0,
        )
        scene = Scene(None, ("east", "west"), random.Random(3))  # type: ignore[arg-type]  # noqa: S311  repeatable
        with History(tmp_path / "history.jsonl") as history:
            made = Trial(
                plan,
                scene,
                history,
                lambda workload, who: (
                    Program(data, lock, dies, refused)
                    if who.node == "west"
                    else Program(data, lock, lambda _: False)
                ),
            )
            made.run()
        return made

    return played


def test_who_dies_while_things_are_broken_and_works_afterwards_is_excused(play: Any) -> None:
    made = play(lambda answered: bool(NOW["broken"]))
    assert {one.verdict for one in made.judgements} == {Verdict.OK}
    assert len([one for player in made._players for one in player.troubles]) >= 3


def test_who_dies_right_after_a_fault_before_it_answered_anything_is_excused(play: Any) -> None:
    """A node may take a moment until a program can work beside it."""
    since: dict[Any, float] = {}

    def dies(answered: int) -> bool:
        first = since.setdefault(NOW["faults"], time.monotonic())
        return bool(NOW["faults"] and (NOW["broken"] or time.monotonic() - first < LASTS + 0.15))

    made = play(dies)
    assert {one.verdict for one in made.judgements} == {Verdict.OK}


def test_who_never_answers_again_after_a_fault_has_shown_nothing(play: Any) -> None:
    with pytest.raises(
        LabError, match=r"^west/register/0 ended or hung \d+ times, and did not answer .*cheese"
    ):
        play(lambda answered: NOW["faults"] > 0)


def test_whose_programs_work_for_a_while_and_die_has_shown_nothing(play: Any) -> None:
    """However dense the faults are: a program that was started after one, and has worked, has no excuse."""
    with pytest.raises(LabError, match=r"times a client did not work, with nothing broken: .*out of cheese"):
        play(lambda answered: NOW["faults"] > 0 and answered % 9 == 8)


def test_who_dies_before_any_fault_has_no_excuse(play: Any) -> None:
    with pytest.raises(LabError, match=r"with nothing broken: west/register/0: out of cheese"):
        play(lambda answered: NOW["faults"] == 0 and answered == 5)


def test_a_system_that_refuses_for_ever_after_a_fault_has_failed_at_that_fault(play: Any) -> None:
    """The next fault does not come: it would hide which one the system did not recover from."""
    with pytest.raises(
        Unrecovered, match=r"1 s after everything was healed 1 clients .* west/register/0 with QuorumLost"
    ):
        play(refused=lambda: NOW["faults"] > 0)
    assert NOW["faults"] == 1


def test_a_system_that_refuses_for_a_moment_after_a_fault_has_recovered(play: Any) -> None:
    healed: dict[Any, float] = {}

    def refused() -> bool:
        if NOW["broken"]:
            healed[NOW["faults"]] = time.monotonic() + LASTS + 0.4
        return time.monotonic() < healed.get(NOW["faults"], 0.0)

    made = play(refused=refused)
    assert {one.verdict for one in made.judgements} == {Verdict.OK}
    assert NOW["faults"] == 3
