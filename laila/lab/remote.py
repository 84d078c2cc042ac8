"""The controller's end of a client program: calls that always come to an end, as data.

An `Outcome` is ok, a typed error of the node, or one of two that only the controller can see: `ClientGone`
(the program beside the node ended) and `NoAnswer` (it did not answer within the operation's own timeout and
a margin: a hang). Times are the controller's monotonic clock, so that all outcomes of a run can be
compared.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any

from laila.errors import LabError
from laila.lab.drivers.base import Channel, Driver

BAD_ANSWER = "BadAnswer"
"""The error of an answer that is none: its parts are not of the kinds that the protocol says."""
MARGIN = 3.0
"""Seconds that an answer may be late before it counts as a hang: scheduling, and the way to the program and
back.
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one operation. `error` is the class name of what was raised beside the node, empty when
    ok.
    """

    started: float
    ended: float
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    message: str = ""
    executed: str | None = None
    clock: tuple[float, ...] = ()
    """When the program beside the node worked on it, by the node's monotonic clock; not every program tells."""
    reason: str = ""
    """The system's word, such as ENOSPC, where the error has one."""

    @property
    def ok(self) -> bool:
        return not self.error

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    def __str__(self) -> str:
        return "ok" if self.ok else f"{self.error}: {self.message}"


def client_argv(driver: Driver, node: str, wait: float, connect: str = "") -> list[str]:
    """The command of our client program beside `node`; `connect` is another door than the node's own."""
    inside = driver.inside(node)
    where = [
        "--connect",
        connect or inside.peer,
        "--secret-file",
        inside.secret_file,
        "--status",
        inside.status,
    ]
    return ["laila", "lab", "client", *where, "--wait", f"{wait:g}"]


class RemoteClient:
    """A client program beside `node`. Safe to call from several threads."""

    def __init__(
        self,
        driver: Driver | Channel,
        node: str,
        argv: Sequence[str] = (),
        wait: float = 30.0,
        channel: Channel | None = None,
    ) -> None:
        """`channel`, or a channel in the driver's place: one to a program that is started already."""
        self.node = node
        if isinstance(driver, Channel):
            channel = driver
        elif channel is None:
            channel = driver.open(node, argv or client_argv(driver, node, wait))
        self._channel: Channel = channel
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._why_gone = ""
        self._reader = threading.Thread(target=self._read, name=f"client of {node}", daemon=True)
        self._reader.start()

    @property
    def gone(self) -> bool:
        return bool(self._why_gone)

    def call(self, op: str, *, timeout: float = 10.0, **words: Any) -> Outcome:
        """Run one operation beside the node and wait for its outcome; never longer than timeout + MARGIN."""
        number = next(self._numbers)
        started = time.monotonic()
        future = self._send(number, {"id": number, "op": op, "timeout": timeout, **words})
        try:
            answer = future.result(timeout + MARGIN)
        except FutureTimeout:
            with self._lock:
                self._waiting.pop(number, None)
            late = f"no answer to {op} for {timeout + MARGIN:g} s, though it was bounded by {timeout:g} s"
            return Outcome(started, time.monotonic(), error="NoAnswer", message=late)
        ended, clock = time.monotonic(), answer.get("clock")
        clock = tuple(clock) if isinstance(clock, list) else ()
        done, result, error = answer.get("ok", False), answer.get("result") or {}, answer.get("error") or {}
        if not isinstance(done, bool) or not isinstance(result, dict) or not isinstance(error, dict):
            said = json.dumps(answer)[:200]
            return Outcome(started, ended, error=BAD_ANSWER, message=f"not an answer to {op}: {said}")
        if done:
            return Outcome(started, ended, result=result, clock=clock)
        return Outcome(
            started,
            ended,
            error=str(error.get("code") or "an error without a code"),
            message=str(error.get("message", "")),
            executed=error.get("executed"),
            clock=clock,
            reason=str(error.get("reason") or ""),
        )

    def must(self, op: str, *, timeout: float = 10.0, **words: Any) -> dict[str, Any]:
        """The result of an operation that has no business failing. Raises LabError with the node and the
        reason.
        """
        outcome = self.call(op, timeout=timeout, **words)
        if not outcome.ok:
            raise LabError(f"{op} beside {self.node}: {outcome}{self.complaints()}")
        return outcome.result

    def complaints(self) -> str:
        """Its last line on stderr, in parentheses, for messages."""
        lines = self._channel.stderr().strip().splitlines()
        return f" ({lines[-1]})" if lines else ""

    def close(self, timeout: float = 5.0) -> None:
        """End the program. What is still waiting gets ClientGone."""
        self._channel.close(timeout)
        self._reader.join(timeout)

    def _send(self, number: int, request: dict[str, Any]) -> Future[dict[str, Any]]:
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._why_gone:
                future.set_result(_gone(self._why_gone))
                return future
            self._waiting[number] = future
            try:
                self._channel.send(json.dumps(request, separators=(",", ":")).encode("utf-8"))
            except LabError as error:
                self._waiting.pop(number, None)
                self._why_gone = str(error)
                future.set_result(_gone(self._why_gone))
        return future

    def _read(self) -> None:
        why = "the program beside the node ended"
        try:
            for line in self._channel.lines():
                answer = json.loads(line)
                number = answer.get("id")
                if not isinstance(number, int | str | None) or isinstance(number, bool):
                    raise ValueError(f"its id is {number!r}")
                with self._lock:
                    future = self._waiting.pop(number, None)  # type: ignore[arg-type]  # what is no number waits for nothing
                if future is not None:
                    future.set_result(answer)
        except (LabError, ValueError, AttributeError, RecursionError) as error:
            why = f"the program beside the node printed what is no answer: {error}"
        with self._lock:
            self._why_gone = why
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_result(_gone(why))


def _gone(why: str) -> dict[str, Any]:
    return {"ok": False, "error": {"code": "ClientGone", "message": why}}
