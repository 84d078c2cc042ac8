"""Plays a workload's script on one client, for as long as the trial goes on, whatever happens to client and node.

After an outcome that nobody knows the client goes on under another name, so that each name stands for one program that
does one thing at a time. A program that ended is started again once its node lives.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from laila.errors import LailaError
from laila.lab.checkers.operations import OK, UNKNOWN, Op
from laila.lab.trials.invoking import Answer, Invoker
from laila.lab.workloads.base import Invocation, Script, Who, Workload

PAUSE = (0.0, 0.01)
AFTER_AN_ERROR = 0.1
LOOK = 0.05


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that a client does only when it or its node is broken. Times are the controller's monotonic clock."""

    node: str
    began: float
    ended: float
    text: str
    worked: float = math.inf
    """Since when its program had worked: when it first answered. It never had: infinite."""


@dataclass(slots=True)
class Player:
    """One client of one workload. `start` opens its program; `sink` takes every operation as it ends."""

    workload: Workload
    who: Who
    start: Callable[[Workload, Who], Invoker]
    sink: Callable[[Workload, Op], None]
    alive: Callable[[str], bool]
    """Whether a node is one beside which a client can be started now."""
    seed: int
    began: float
    timeout: float
    over: threading.Event
    pause: tuple[float, float] = PAUSE
    troubles: list[Trouble] = field(default_factory=list)
    """When a client ended or hung, or could not be had though its node lived."""
    lies: list[str] = field(default_factory=list)
    holding: str = ""
    """The key of the lock that it holds now."""
    answered: float = -math.inf
    """When it last answered anything."""
    refusal: str = ""
    """The error of its last operation, when its program lives and the system did not do what it was asked."""
    _invoker: Invoker | None = None
    _worked: float = math.inf
    """When its program, the one that it has now, answered first."""

    @property
    def pid(self) -> int:
        return 0 if self._invoker is None else self._invoker.pid

    def run(self) -> None:
        """Until `over`."""
        chance = random.Random(f"{self.seed} {self.workload.name} {self.who.name}")  # noqa: S311  repeatable on purpose
        incarnation = 0
        while not self.over.is_set():
            who = self._named(incarnation)
            if self._have_client():
                self._play(self.workload.script(who, chance), who, chance)
                incarnation += 1
            self.over.wait(AFTER_AN_ERROR)

    def once(self, part: Callable[[Who], Script], name: str, within: float) -> bool:
        """Play the opening or the closing, again from its beginning until it went through; False when it did not."""
        deadline, turn = time.monotonic() + within, 0
        while time.monotonic() < deadline:
            who = replace(self.who, name=f"{self.who.name}:{name}{turn or ''}")
            if self._have_client() and self._play(part(who), who, None):
                return True
            turn += 1
            time.sleep(AFTER_AN_ERROR)
        return False

    def close(self) -> None:
        if self._invoker is not None:
            self._invoker.close()
            self._invoker = None

    # -- inside

    def _named(self, incarnation: int) -> Who:
        name = f"{self.who.name}#{incarnation}" if incarnation else self.who.name
        return replace(self.who, name=name, incarnation=incarnation)

    def _have_client(self) -> bool:
        if self._invoker is not None and self._invoker.gone:
            self.close()
        if self._invoker is None and self.alive(self.who.node):
            began = time.monotonic()
            try:
                self._worked = math.inf
                self._invoker = self.start(self.workload, self.who)
                self.workload.offered = self._invoker.offers or self.workload.ops
            except LailaError as error:
                self._trouble(began, str(error))
        return self._invoker is not None

    def _play(self, script: Script, who: Who, chance: random.Random | None) -> bool:
        """Whether it went to its end, and not to an outcome that nobody knows."""
        try:
            invocation = next(script)
            while chance is None or not self.over.is_set():
                op = self._ask(invocation, who)
                if op.outcome == UNKNOWN:
                    return False
                if chance is not None:
                    time.sleep(chance.uniform(*self.pause))
                invocation = script.send(op)
        except StopIteration:
            return True
        except (
            Exception
        ) as error:  # of a script, or of what keeps the history: such a client has shown nothing
            self.lies.append(f"{who.name} could not go on: {type(error).__name__}: {error}")
            return False
        finally:
            script.close()
            self.holding = ""
        return True

    def _ask(self, invocation: Invocation, who: Who) -> Op:
        invoker = self._invoker
        if invoker is None:
            raise AssertionError("nobody plays without a client")
        if invocation.pause:
            (time.sleep if self.over.is_set() else self.over.wait)(invocation.pause)
        if invocation.op == "release":
            self.holding = ""
        told = invoker.invoke(invocation, invocation.timeout or self.timeout)
        if told.lie:
            self.lies.append(f"{who.name}: {told.died or told.lie}")
        elif told.died:
            self._trouble(told.started, f"{told.died} (asked for {invocation.op})")
        op = self._op(invocation, who, told)
        self._note_hold(op)
        if op.outcome != UNKNOWN:
            self.answered, self._worked = told.ended, min(self._worked, told.ended)
        self.refusal = "" if op.outcome != UNKNOWN or told.died or told.lie else told.error
        self.sink(self.workload, op)
        return op

    def _trouble(self, began: float, text: str) -> None:
        ended, text = time.monotonic(), f"{self.who.name}: {text}"
        self.troubles.append(Trouble(self.who.node, began, ended, text, self._worked))

    def _op(self, invocation: Invocation, who: Who, told: Answer) -> Op:
        end = math.inf if told.outcome == UNKNOWN else round(told.ended - self.began, 6)
        result = told.result if told.outcome == OK else None
        what = (who.name, who.node, invocation.op, invocation.key, invocation.value, result)
        return Op(*what, round(told.started - self.began, 6), end, told.outcome, told.error)

    def _note_hold(self, op: Op) -> None:
        if op.op == "acquire" and op.ok:
            self.holding = op.key
