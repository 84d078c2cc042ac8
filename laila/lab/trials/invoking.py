"""How a client is asked for one thing: a program that speaks JSON lines, or a Python object with `invoke`."""

from __future__ import annotations

import abc
import queue
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from laila.lab.checkers.operations import FAIL, OK, UNKNOWN
from laila.lab.remote import BAD_ANSWER, MARGIN, Outcome, RemoteClient
from laila.lab.workloads import protocol
from laila.lab.workloads.base import Invocation

DEAD = ("ClientGone", "NoAnswer")
"""How a call ends whose client does not work any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an invocation. Times are the controller's monotonic clock, before asking and after the answer."""

    outcome: str
    started: float
    ended: float
    result: Any = None
    error: str = ""
    lie: str = ""
    """Why an answer is none: the client said ok and then what no system says."""
    died: str = ""
    """The client ended or hung: why, with the last of its stderr."""


class Invoker(abc.ABC):
    """One client. One thread asks at a time."""

    pid: int = 0
    """Its process beside the node, where it has one."""
    offers: tuple[str, ...] = ()
    """The operations that it says it has; empty: it does not say."""

    @abc.abstractmethod
    def invoke(self, invocation: Invocation, timeout: float) -> Answer:
        """Never raises for what the system does, and always comes back: by `timeout` and a margin."""

    @property
    @abc.abstractmethod
    def gone(self) -> bool:
        """It will never answer again."""

    @abc.abstractmethod
    def close(self) -> None: ...


class ProgramInvoker(Invoker):
    """A client program. An error with `executed: "no"` is a certain failure; any other leaves the outcome unknown."""

    def __init__(self, client: RemoteClient, pid: int = 0, offers: tuple[str, ...] = ()) -> None:
        self.client = client
        self.pid = pid
        self.offers = offers

    def invoke(self, invocation: Invocation, timeout: float) -> Answer:
        words = protocol.request(invocation)
        outcome = self.client.call(invocation.op, timeout=timeout, **words)
        told = answer(invocation, outcome)
        if outcome.error in DEAD or told.lie:
            told = replace(told, died=f"{outcome.message or told.lie}{self.client.complaints()}")
        return told

    @property
    def gone(self) -> bool:
        return self.client.gone

    def close(self) -> None:
        self.client.close()


@dataclass(frozen=True, slots=True)
class Said:
    """What a client in Python says became of an operation: see `ok`, `fail`, `unknown`."""

    outcome: str
    value: Any = None
    error: str = ""


def ok(value: Any = None) -> Said:
    """It went through. `value`: what was read, whether it was swapped, the token, the elements; else nothing."""
    return Said(OK, value)


def fail(reason: str = "refused") -> Said:
    """It surely had no effect, and never will."""
    return Said(FAIL, error=reason)


def unknown(reason: str = "no answer") -> Said:
    """Nobody knows whether it had an effect, or will have one: a timeout, a broken connection."""
    return Said(UNKNOWN, error=reason)


class ObjectInvoker(Invoker):
    """A Python object: `invoke(Invocation)` gives `ok(…)`, `fail(…)` or `unknown(…)`; what it raises is unknown.

    It works in a thread of its own, so that one that never comes back is left behind and holds up nobody.
    """

    def __init__(self, client: Any, offers: tuple[str, ...] = ()) -> None:
        self._client = client
        self.offers = offers
        self._asked: queue.SimpleQueue[Invocation | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._hangs = False
        self._thread = threading.Thread(target=self._work, name="a client in Python", daemon=True)
        self._thread.start()

    def invoke(self, invocation: Invocation, timeout: float) -> Answer:
        started = time.monotonic()
        self._asked.put(invocation)
        try:
            said = self._told.get(timeout=timeout + MARGIN)
        except queue.Empty:
            self._hangs = True
            late = f"invoke({invocation.op}) did not come back within {timeout + MARGIN:g} s"
            text = f"{late}: what a client waits for should have a shorter timeout"
            return Answer(UNKNOWN, started, time.monotonic(), error=late, died=text)
        when = (started, time.monotonic())
        if not isinstance(said, Said):
            lie = f"invoke({invocation.op}) gave {said!r} instead of ok(…), fail(…) or unknown(…)"
            return Answer(UNKNOWN, *when, error=lie, lie=lie)
        if said.outcome != OK:
            return Answer(said.outcome, *when, error=said.error)
        try:
            return Answer(OK, *when, protocol.given(invocation.op, said.value))
        except ValueError as error:
            return _lied(invocation, error, when)

    @property
    def gone(self) -> bool:
        return self._hangs

    def close(self) -> None:
        """One that hangs is closed when it comes back, if ever."""
        self._asked.put(None)
        if not self._hangs:
            self._thread.join(MARGIN)

    def _work(self) -> None:
        while (invocation := self._asked.get()) is not None:
            try:
                said = self._client.invoke(invocation)
            except BaseException as error:  # whatever the user's client raises: nobody knows what happened
                said = unknown(f"{type(error).__name__}: {error}")
            self._told.put(said)
        end = getattr(self._client, "close", None)
        if end is not None:
            end()


def answer(invocation: Invocation, outcome: Outcome) -> Answer:
    """A program's outcome as a history knows it."""
    when = (outcome.started, outcome.ended)
    if outcome.error == BAD_ANSWER:
        return Answer(UNKNOWN, *when, error=outcome.message, lie=outcome.message)
    if not outcome.ok:
        certain = outcome.executed == "no"
        return Answer(FAIL if certain else UNKNOWN, *when, error=f"{outcome.error}: {outcome.message}"[:300])
    try:
        return Answer(OK, *when, protocol.result(invocation.op, outcome.result))
    except ValueError as error:
        return _lied(invocation, error, when)


def _lied(invocation: Invocation, error: ValueError, when: tuple[float, float]) -> Answer:
    """It said ok, and then what no system says."""
    said = f"the client's answer to {invocation.op} is none: {error}"
    return Answer(UNKNOWN, *when, error=said, lie=said)
