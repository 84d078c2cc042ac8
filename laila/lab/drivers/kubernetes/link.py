"""The driver's end of a node's keeper: questions and answers over one program that stays, opened when first needed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from laila.errors import DeadlineExceeded, LabError
from laila.lab.drivers.kubernetes.exec import ProgramChannel

_READY = 10.0
"""Seconds that the keeper of a pod which runs may take until it listens."""


class KeeperGone(LabError):
    """Nobody is there to ask: the pod is gone, or not there yet."""


class KeeperLink:
    """Safe under threads; one question at a time."""

    def __init__(self, node: str, open_channel: Callable[[], ProgramChannel]) -> None:
        self._node = node
        self._open = open_channel
        self._channel: ProgramChannel | None = None
        self._lines: Iterator[bytes] = iter(())
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix=f"keeper of {node}")

    def ask(self, op: str, *, timeout: float = 20.0, **words: Any) -> dict[str, Any]:
        """Raises KeeperGone, or LabError with the keeper's own words."""
        line = json.dumps({"op": op, **words}).encode()
        with self._lock:
            answer = self._asked(line, timeout)
        if not answer["ok"]:
            raise LabError(f"{self._node}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _asked(self, line: bytes, timeout: float) -> dict[str, Any]:
        if self._channel is not None:
            try:
                return self._once(line, timeout)
            except KeeperGone:
                pass  # perhaps only the connection went, or there is another pod by now
        self._connect()
        return self._once(line, timeout)

    def _connect(self) -> None:
        """With a word first, so that what is asked is not asked twice."""
        deadline = time.monotonic() + _READY
        while True:
            self._drop()
            try:
                self._channel = self._open()
                self._lines = self._channel.lines()
                self._once(b'{"op": "hello"}', _READY)
            except LabError as error:
                self._drop()
                if time.monotonic() > deadline or not isinstance(error, KeeperGone):
                    raise KeeperGone(f"the keeper of {self._node} does not answer: {error}") from error
                time.sleep(0.2)
            else:
                return

    def _once(self, line: bytes, timeout: float) -> dict[str, Any]:
        assert self._channel is not None
        try:
            self._channel.send(line)
        except LabError as error:
            self._drop()
            raise KeeperGone(str(error)) from error
        waiting = self._reader.submit(next, self._lines, None)
        try:
            answer = waiting.result(timeout)
        except FutureTimeout:
            self._drop()
            raise DeadlineExceeded(f"waited {timeout:g} s for the keeper of {self._node}") from None
        if not answer:
            said = "" if self._channel is None else self._channel.stderr().strip()
            self._drop()
            raise KeeperGone(said.splitlines()[-1] if said else "the connection to its pod was lost")
        told: dict[str, Any] = json.loads(answer)
        return told

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.abandon()

    def close(self) -> None:
        with self._lock:
            self._drop()
        self._reader.shutdown(wait=True)
